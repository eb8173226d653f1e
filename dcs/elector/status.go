package elector

import (
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/cluster"
)

// Status is the state of an elector at one moment, from its memory.
type Status struct {
	State State
	// Leader is the member that holds the lock as it was last read, and Token its
	// fencing token. Leader is empty if no member is known to.
	Leader string
	Token  dcs.Revision
	// Paused reports whether the cluster is paused.
	Paused bool
	// Kept reports whether the leadership of this member outlasts its lock, under a
	// keeper.
	Kept bool
	// Refusal is why this member does not take a lock that is free, or nil.
	Refusal error
	// Failed reports whether the last promotion failed. It is false again when one
	// succeeds, or when the service follows another leader.
	Failed bool
	// Failsafe is the state of failsafe mode.
	Failsafe FailsafeStatus
	// Table has the moments of a renewal, for the TTL that the store has granted.
	Table Table
	// Member is the record of this member as it was last determined.
	Member cluster.Member
}

// Status returns the state of the elector. It does no I/O.
func (e *Elector) Status() Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.status
}

// Leading returns the present leadership, or nil if this member does not lead:
// before Promote has returned, once a demotion has begun, and when the lock is lost.
// It does no I/O.
func (e *Elector) Leading() *Leadership {
	e.mu.Lock()
	l := e.leading
	e.mu.Unlock()
	if l == nil || !l.Valid() {
		return nil
	}
	return l
}

// View returns the cluster as the elector has read it last, or nil before that. It
// must not be changed. It does no I/O.
func (e *Elector) View() *cluster.View {
	_, v := e.snapshot()
	return v
}

// Alive returns nil if the elector's loop runs, or an error if it has not run for half
// of the TTL, is not started, or has ended. It does no I/O.
func (e *Elector) Alive() error {
	at := e.beat.Load()
	switch limit := time.Duration(e.limit.Load()); {
	case at == nil:
		return errors.New("the elector has not started")
	case isClosed(e.stopped):
		return errors.New("the elector has stopped")
	case at.Elapsed() > limit:
		return fmt.Errorf("the elector's loop has not run for %v", limit)
	}
	return nil
}

// Identity returns the answer of this member to another one that asks for its
// identity, see [cluster.Verify]. It does no I/O.
func (e *Elector) Identity() cluster.Identity {
	m := e.Status().Member
	return cluster.Identity{
		Scope: e.c.Scope, Name: e.c.Name, Instance: e.instance,
		State: m.State, Role: m.Role, Position: m.Position, Timeline: m.Timeline,
	}
}

// publishStatus makes the state of the loop visible to other goroutines.
func (e *Elector) publishStatus() {
	l := &e.loop
	s := Status{State: l.state, Refusal: l.refusal, Failed: l.failed, Table: l.table, Member: e.record(), Failsafe: e.failsafeStatus()}
	if l.lead != nil && l.state == Leading {
		s.Kept = l.lead.term().kept
	}
	if v := l.view; v != nil {
		s.Paused = v.Config.Pause
		if v.Leader != nil {
			s.Leader, s.Token = v.Leader.Name, v.Leader.Token
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.status, e.seen = s, l.view
	close(e.changed)
	e.changed = make(chan struct{})
}

// snapshot returns the last View of the loop and a channel that is closed after its
// next turn.
func (e *Elector) snapshot() (<-chan struct{}, *cluster.View) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.changed, e.seen
}
