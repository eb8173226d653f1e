package attempt

import (
	"context"
	"errors"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// event is the answer to one copy.
type event struct {
	ans    Answer
	err    error // from Send, or from the read that should explain the refusal in ans
	unsent bool  // the copy was not given to the Transport

	removed bool // the copy deletes the marker
}

// definite reports whether the copy certainly wrote nothing.
func (e event) definite() bool {
	return e.unsent || e.ans.refused() || errors.Is(e.err, ErrNotSent)
}

// refused reports whether the store received the copy and refused it. A second arrival
// of such a copy may be applied (P10).
func (e event) refused() bool {
	if e.unsent {
		return false
	}
	return e.ans.refused() || errors.Is(e.err, ErrNotSent) && byStore(dcs.KindOf(e.err))
}

// byStore reports whether an ErrNotSent of that kind comes from the store. ErrClosed
// comes from the transport. Without a kind the copy was not sent.
func byStore(kind error) bool { return kind != nil && kind != dcs.ErrClosed } //nolint:errorlint // KindOf returns a sentinel

// copies sends the copies of one request: the first at once, a hedge while one stays
// unanswered, and another one after a failure. The marker makes that safe for a write,
// and a read may be repeated (P13). It belongs to one goroutine.
type copies struct {
	c       *Committer
	send    func(ctx context.Context, n position) event
	results chan event

	sent        position    // of the next copy
	unanswered  int         // copies without an answer yet
	resendTimer *time.Timer // fires when another copy is sent although some are unanswered
	ambiguous   bool        // the outcome of a copy is unknown
	refused     bool        // the store received a copy and refused it
	stopSending bool        // collect answers only
	fails       int         // for the back-off; raised by the caller of next that finds a failure
}

// position identifies one copy of a request.
type position struct {
	copy, round int
	hedge       bool
}

func (n position) request(m Marker, t dcs.Txn) Request {
	return Request{Marker: m, Txn: t, Copy: n.copy, Round: n.round, Hedge: n.hedge}
}

func (c *Committer) newCopies(send func(ctx context.Context, n position) event) *copies {
	return &copies{c: c, send: send, results: make(chan event, maxUnanswered)}
}

// nothingWritten reports whether every copy that was sent certainly wrote nothing and
// never will.
func (v *copies) nothingWritten() bool {
	return v.unanswered == 0 && !v.ambiguous && !(v.refused && v.c.o.Duplicates)
}

// due reports whether another copy must be sent, and after which pause.
func (v *copies) due() (time.Duration, bool) {
	switch {
	case v.stopSending:
		return 0, false
	case v.unanswered == 0 && v.fails == 0:
		return 0, true
	case v.unanswered == 0:
		ceiling := min(maxBackoff, minBackoff<<min(v.fails, 10))
		return v.c.jitter(ceiling), true
	case v.unanswered < maxUnanswered:
		d := v.c.o.HedgeAfter()
		return d, d > 0
	}
	return 0, false
}

// next sends the copies that are due until a copy is answered. It returns false if ctx
// ends first.
func (v *copies) next(ctx context.Context) (event, bool) {
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
		case e := <-v.results:
			stop()
			return v.take(e), true
		case <-fire:
			if v.unanswered == 0 || v.c.o.Hedge() {
				v.launch(ctx, v.unanswered > 0)
			}
		case <-v.resendDue():
			stop()
			v.launch(ctx, false)
		case <-ctx.Done():
			stop()
		}
	}
	// An answer that arrived in time counts, whichever case the select chose.
	select {
	case e := <-v.results:
		return v.take(e), true
	default:
		return event{}, false
	}
}

// resendDue returns a channel that fires when another copy must be sent although some
// are unanswered.
func (v *copies) resendDue() <-chan time.Time {
	if v.resendTimer == nil || v.unanswered == 0 || v.stopSending {
		return nil
	}
	return v.resendTimer.C
}

func (v *copies) take(e event) event {
	v.unanswered--
	switch {
	case !e.definite():
		v.ambiguous = true
	case e.refused():
		v.refused = true
	}
	return e
}

// launch sends one copy. Its goroutine ends with ctx at the latest.
func (v *copies) launch(ctx context.Context, hedge bool) {
	left := noDeadline
	if deadline, ok := ctx.Deadline(); ok {
		left = time.Until(deadline)
	}
	n := v.sent
	n.hedge = hedge
	v.sent.copy++
	v.unanswered++
	if !hedge {
		v.sent.round++
		v.resendTimer = nil
		if d := v.c.o.ResendAfter(left, n.round); d > 0 {
			v.resendTimer = time.NewTimer(d)
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

// deliver passes e to next. An answer that arrived in time is kept for next even if ctx
// ends before next reads it. A failure after the end of ctx reports only that end, and is
// dropped.
func (v *copies) deliver(ctx context.Context, e event) {
	if e.err != nil && ctx.Err() != nil {
		return
	}
	select {
	case v.results <- e:
		return
	default:
	}
	select {
	case v.results <- e:
	case <-ctx.Done():
	}
}
