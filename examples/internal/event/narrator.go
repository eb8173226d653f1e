package event

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// A Narrator reports on one member's holds: "leading" until "lost" or
// "released" is exactly the time in which Valid() was true.
type Narrator struct {
	Log    *Log
	Member string

	present atomic.Pointer[ReportedHold]
}

// ReportedHold is a Hold whose beginning and end are reported.
type ReportedHold struct {
	*dcs.Hold
	n        *Narrator
	released atomic.Int64
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

// Lead reports that h is held.
func (n *Narrator) Lead(h *dcs.Hold) *ReportedHold {
	r := &ReportedHold{Hold: h, n: n}
	n.Emit(Event{Event: Leading, Leader: n.Member, Token: uint64(h.Token()), DeadlineMono: DeadlineMono(h.Deadline())})
	n.present.Store(r)
	return r
}

// Release gives the hold up and reports it.
func (h *ReportedHold) Release(ctx context.Context) {
	// The stamp is taken before Release: from its first instruction on the
	// hold is not valid, and a successor may already be there when it returns.
	h.released.Store(Mono())
	if err := h.Hold.Release(ctx); err != nil {
		h.n.Emit(Event{Event: Error, Reason: "release: " + err.Error()})
	}
	<-h.Done()
	h.Ended()
}

// Ended reports the end of the hold: the moment at which Valid turned false.
func (h *ReportedHold) Ended() {
	h.n.present.CompareAndSwap(h, nil)
	e := Event{Event: Lost, Token: uint64(h.Token()), Mono: Mono(), DeadlineMono: DeadlineMono(h.Deadline())}
	if err := h.Err(); err != nil {
		e.Reason = err.Error()
	}
	if at := h.released.Load(); at != 0 && errors.Is(h.Err(), dcs.ErrReleased) {
		e.Event, e.Mono = Released, at
	} else if e.DeadlineMono < e.Mono {
		e.Mono = e.DeadlineMono
	}
	h.n.Emit(e)
}

// DeadlineMono is an instant as a reading of CLOCK_MONOTONIC.
func DeadlineMono(i dcs.Instant) int64 { return Mono() - int64(i.Elapsed()) }

func (n *Narrator) renewal(r dcs.RenewalEvent) {
	h := n.present.Load()
	if h == nil || r.Err != nil || !h.Valid() {
		return
	}
	n.Emit(Event{Event: Renewed, Token: uint64(h.Token()), DeadlineMono: DeadlineMono(r.Deadline)})
}

func (n *Narrator) state(s dcs.StateEvent) {
	h := n.present.Load()
	if h == nil || s.Token != h.Token() || s.To != dcs.Unknown {
		return
	}
	e := Event{Event: Unknown, Token: uint64(h.Token()), DeadlineMono: DeadlineMono(h.Deadline())}
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
