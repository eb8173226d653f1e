package event

import (
	"sync"
	"sync/atomic"
	"time"

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
	n     *Narrator
	token uint64 // at the beginning; every event of the term has it

	mu       sync.Mutex
	current  uint64      // the token of the present lock
	until    dcs.Instant // the latest deadline
	deadline int64       // until, as a reading of CLOCK_MONOTONIC
	ended    bool
}

// followEvery is how often a term is asked for a deadline that no renewal has moved.
const followEvery = 20 * time.Millisecond

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
	t.current, t.deadline = t.token, at+int64(l.Remaining())
	t.until, _ = l.Deadline()
	n.Emit(Event{Event: Leading, Leader: n.Member, Token: t.token, Mono: at, DeadlineMono: t.deadline})
	n.present.Store(t)
	go t.follow() // ends with the leadership
	return t
}

// Deadline returns the reading of CLOCK_MONOTONIC at which the leadership ends without
// a further renewal.
func (t *Term) Deadline() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.deadline
}

// End reports that the member had stopped to act as the leader at a moment. The name is
// Lost, Released or Fenced.
func (t *Term) End(name string, at int64, reason string) {
	t.n.present.CompareAndSwap(t, nil)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	t.emit(Event{Event: name, Mono: at, Reason: reason})
}

// follow reports a deadline and a token that no renewal has: in failsafe mode a
// leadership outlasts its lock, and takes the lock again.
func (t *Term) follow() {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			t.retake(uint64(t.Token()))
			if until, ok := t.Leadership.Deadline(); ok {
				t.extend(until)
			}
		case <-t.Done():
			return
		}
	}
}

// retake reports the token of another lock.
func (t *Term) retake(token uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended || token == t.current {
		return
	}
	t.current = token
	t.emit(Event{Event: Retaken})
}

// extend reports a later deadline.
func (t *Term) extend(until dcs.Instant) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended || !t.until.Before(until) {
		return
	}
	t.until, t.deadline = until, max(t.deadline, deadlineMono(until))
	t.emit(Event{Event: Renewed})
}

// emit writes an event of the term, under mu, with its tokens and its deadline.
func (t *Term) emit(e Event) {
	e.Token, e.DeadlineMono = t.token, t.deadline
	if t.current != t.token {
		e.NewToken = t.current
	}
	t.n.Emit(e)
}

// deadlineMono returns an instant as a reading of CLOCK_MONOTONIC.
func deadlineMono(i dcs.Instant) int64 { return Mono() - int64(i.Elapsed()) }

// renewal reports a renewal that moves the deadline. One from before the leadership
// may arrive late.
func (n *Narrator) renewal(r dcs.RenewalEvent) {
	if t := n.present.Load(); t != nil && r.Err == nil {
		t.extend(r.Deadline)
	}
}

func (n *Narrator) state(s dcs.StateEvent) {
	t := n.present.Load()
	if t == nil || s.Token != t.Token() || s.To != dcs.Unknown {
		return
	}
	e := Event{Event: Unknown}
	if s.Reason != nil {
		e.Reason = s.Reason.Error()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.emit(e)
}

func (n *Narrator) endpoint(e dcs.EndpointEvent) {
	if e.Change == dcs.Switched {
		n.Emit(Event{Event: Rotated, Endpoint: e.To, Reason: e.Reason})
	}
}
