package event

import (
	"sync/atomic"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/elector"
)

// A Narrator reports on one member.
type Narrator struct {
	Log    *Log
	Member string

	present atomic.Pointer[Term]
}

// Term is one time as the leader, from Lead to End.
type Term struct {
	*elector.Leadership
	n        *Narrator
	token    uint64 // at the beginning
	deadline atomic.Int64
}

// Emit writes an event of the member's.
func (n *Narrator) Emit(e Event) {
	e.Member = n.Member
	n.Log.Emit(e)
}

// Observer reports renewals, failed ones, and changes of the server.
func (n *Narrator) Observer() dcs.Observer {
	return dcs.Observer{Renewal: n.renewal, State: n.state, Endpoint: n.endpoint}
}

// Lead reports that the member begins to act as the leader.
func (n *Narrator) Lead(l *elector.Leadership) *Term {
	t := &Term{Leadership: l, n: n, token: uint64(l.Token())}
	at := Mono()
	t.deadline.Store(at + int64(l.Remaining()))
	n.Emit(Event{Event: Leading, Leader: n.Member, Token: t.token, Mono: at, DeadlineMono: t.Deadline()})
	n.present.Store(t)
	return t
}

// Deadline returns the reading of CLOCK_MONOTONIC at which the leadership ends without
// a further renewal.
func (t *Term) Deadline() int64 { return t.deadline.Load() }

// End reports that the member had stopped to act as the leader at a moment. The name is
// Lost, Released or Fenced.
func (t *Term) End(name string, at int64, reason string) {
	t.n.present.CompareAndSwap(t, nil)
	t.n.Emit(Event{Event: name, Token: t.token, Mono: at, DeadlineMono: t.Deadline(), Reason: reason})
}

// deadlineMono returns an instant as a reading of CLOCK_MONOTONIC.
func deadlineMono(i dcs.Instant) int64 { return Mono() - int64(i.Elapsed()) }

// renewal reports a renewal that moves the deadline. One from before the leadership
// may arrive late.
func (n *Narrator) renewal(r dcs.RenewalEvent) {
	t := n.present.Load()
	if t == nil || r.Err != nil {
		return
	}
	if at := deadlineMono(r.Deadline); at > t.Deadline() {
		t.deadline.Store(at)
		n.Emit(Event{Event: Renewed, Token: t.token, DeadlineMono: at})
	}
}

func (n *Narrator) state(s dcs.StateEvent) {
	t := n.present.Load()
	if t == nil || uint64(s.Token) != t.token || s.To != dcs.Unknown {
		return
	}
	e := Event{Event: Unknown, Token: t.token, DeadlineMono: t.Deadline()}
	if s.Reason != nil {
		e.Reason = s.Reason.Error()
	}
	n.Emit(e)
}

func (n *Narrator) endpoint(e dcs.EndpointEvent) {
	if e.Change == dcs.Switched {
		n.Emit(Event{Event: Rotated, Endpoint: e.To, Reason: e.Reason})
	}
}
