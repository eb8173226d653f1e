package main

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	dcscluster "github.com/holdfast-dcs/holdfast/dcs/cluster"
	"github.com/holdfast-dcs/holdfast/dcs/elector"
	"github.com/holdfast-dcs/holdfast/examples/internal/event"
)

// database stands for the service of a member. It is primary from Promote until it is
// stopped, and looks at no lock itself.
type database struct {
	narrator *event.Narrator
	primary  atomic.Pointer[event.Term]         // nil on a replica
	last     atomic.Pointer[elector.Leadership] // the last leadership, for the fencing check

	mu     sync.Mutex
	fenced chan struct{} // closed by the next Fence
	hangs  bool          // the next Demote does
}

func newDatabase(narrator *event.Narrator) *database {
	return &database{narrator: narrator, fenced: make(chan struct{})}
}

// Promote implements [elector.Service].
func (d *database) Promote(_ context.Context, l *elector.Leadership) error {
	d.last.Store(l)
	d.primary.Store(d.narrator.Lead(l))
	return nil
}

// Demote implements [elector.Service]. One that hangs ignores its context and returns
// when the database was stopped by force, as the stop command of a server that does
// not react.
func (d *database) Demote(_ context.Context, r elector.Reason) error {
	d.mu.Lock()
	hangs, fenced := d.hangs, d.fenced
	d.hangs = false
	d.mu.Unlock()
	if hangs {
		<-fenced
		return errors.New("the database was killed")
	}
	name := event.Lost
	if r.Cause == elector.CauseSwitchover || r.Cause == elector.CauseShutdown {
		name = event.Released
	}
	d.stop(name, r)
	return nil
}

// Fence implements [elector.Fencer].
func (d *database) Fence(r elector.Reason) error {
	d.stop(event.Fenced, r)
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.fenced)
	d.fenced = make(chan struct{})
	return nil
}

// stop makes the database a replica.
func (d *database) stop(name string, r elector.Reason) {
	if t := d.primary.Swap(nil); t != nil {
		t.End(name, event.Mono(), r.String())
	}
}

// hang makes the next Demote hang.
func (d *database) hang() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hangs = true
}

// Report implements [elector.Reporter].
func (d *database) Report(context.Context) (dcscluster.Member, error) {
	if d.primary.Load() != nil {
		return dcscluster.Member{Role: dcscluster.RolePrimary}, nil
	}
	return dcscluster.Member{Role: dcscluster.RoleReplica}, nil
}

// Follow implements [elector.Follower].
func (d *database) Follow(_ context.Context, leader dcscluster.Member) error {
	d.narrator.Emit(event.Event{Event: event.Following, Leader: leader.Name})
	return nil
}
