package attempt

import (
	"context"
	"errors"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// event is the outcome of one copy.
type event struct {
	ans    Answer
	err    error // of Send, or of the read that was to explain the refusal in ans
	unsent bool  // the copy was not given to the Transport

	removed bool // the copy deletes the marker
}

// definite reports whether the copy certainly wrote nothing.
func (e event) definite() bool {
	return e.unsent || e.ans.refused() || errors.Is(e.err, ErrNotSent)
}

// refused reports whether the store has seen the copy and refused it. A second
// arrival of such a copy may be applied (P10).
func (e event) refused() bool {
	if e.unsent {
		return false
	}
	return e.ans.refused() || errors.Is(e.err, ErrNotSent) && byStore(dcs.KindOf(e.err))
}

// byStore reports whether an ErrNotSent of that kind is the store's refusal.
// ErrClosed is the transport's own, and without a kind the copy never left.
func byStore(kind error) bool { return kind != nil && kind != dcs.ErrClosed } //nolint:errorlint // KindOf returns a sentinel

// volley sends copies of one request: the first at once, a hedge beside one
// that stays unanswered, another after one that failed (P13: the marker, or
// the read's nature, makes that safe). It belongs to one goroutine.
type volley struct {
	c    *Committer
	send func(ctx context.Context, n nth) event
	out  chan event

	sent    nth         // the next copy's place
	open    int         // copies without an answer yet
	late    *time.Timer // when another one is sent beside them
	unclear bool        // the outcome of one is unknown
	refused bool        // the store has seen one and refused it
	hold    bool        // collect answers, send nothing more
	fails   int         // for the back-off; whoever judges an answer a failure raises it
}

// nth is the place of a copy among those of its request.
type nth struct {
	copy, round int
	hedge       bool
}

func (n nth) of(m Marker, t dcs.Txn) Request {
	return Request{Marker: m, Txn: t, Copy: n.copy, Round: n.round, Hedge: n.hedge}
}

func (c *Committer) volley(send func(ctx context.Context, n nth) event) *volley {
	return &volley{c: c, send: send, out: make(chan event, inFlight)}
}

// clear reports whether every copy that was sent certainly wrote nothing, and
// none of them will.
func (v *volley) clear() bool {
	return v.open == 0 && !v.unclear && !(v.refused && v.c.o.Duplicates)
}

// due says whether another copy is to be sent, and after what pause.
func (v *volley) due() (time.Duration, bool) {
	switch {
	case v.hold:
		return 0, false
	case v.open == 0 && v.fails == 0:
		return 0, true
	case v.open == 0:
		ceiling := min(maxBackoff, minBackoff<<min(v.fails, 10))
		return v.c.jitter(ceiling), true
	case v.open < inFlight:
		d := v.c.o.HedgeAfter()
		return d, d > 0
	}
	return 0, false
}

// next sends what is due until a copy has an answer or ctx ends (false).
func (v *volley) next(ctx context.Context) (event, bool) {
	for ctx.Err() == nil {
		pause, more := v.due()
		if more && pause <= 0 {
			v.launch(ctx, false)
			continue
		}
		var fire <-chan time.Time
		stop := func() bool { return false }
		if more {
			t := time.NewTimer(pause)
			fire, stop = t.C, t.Stop
		}
		select {
		case e := <-v.out:
			stop()
			return v.take(e), true
		case <-fire:
			if v.open == 0 || v.c.o.Hedge() {
				v.launch(ctx, v.open > 0)
			}
		case <-v.overdue():
			stop()
			v.launch(ctx, false)
		case <-ctx.Done():
			stop()
		}
	}
	// An answer that came in time is not thrown away for the select's choice.
	select {
	case e := <-v.out:
		return v.take(e), true
	default:
		return event{}, false
	}
}

// overdue fires when another copy is to be sent beside those that are open.
func (v *volley) overdue() <-chan time.Time {
	if v.late == nil || v.open == 0 || v.hold {
		return nil
	}
	return v.late.C
}

func (v *volley) take(e event) event {
	v.open--
	switch {
	case !e.definite():
		v.unclear = true
	case e.refused():
		v.refused = true
	}
	return e
}

// launch sends one copy. Its goroutine ends with ctx at the latest.
func (v *volley) launch(ctx context.Context, hedge bool) {
	left := noDeadline
	if deadline, ok := ctx.Deadline(); ok {
		left = time.Until(deadline)
	}
	n := v.sent
	n.hedge = hedge
	v.sent.copy++
	v.open++
	if !hedge {
		v.sent.round++
		v.late = nil
		if d := v.c.o.ResendAfter(left, n.round); d > 0 {
			v.late = time.NewTimer(d)
		}
	}
	v.c.running.Add(1)
	go func() {
		defer v.c.running.Done()
		one, cancel := context.WithTimeout(ctx, v.c.o.attemptTimeout(left))
		defer cancel()
		v.deliver(ctx, v.send(one, n))
	}()
}

// deliver hands e to next. An answer that came in time is kept for next even
// if ctx ends before next looks. A failure after that reports only the end.
func (v *volley) deliver(ctx context.Context, e event) {
	if e.err != nil && ctx.Err() != nil {
		return
	}
	select {
	case v.out <- e:
		return
	default:
	}
	select {
	case v.out <- e:
	case <-ctx.Done():
	}
}
