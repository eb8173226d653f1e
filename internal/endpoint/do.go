package endpoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Answer is the result of a call.
type Answer[T any] struct {
	Value T
	// Endpoint is the endpoint that answered. With an error it is the endpoint of
	// that error, or empty.
	Endpoint string
	// Sent is when the answered copy was sent (P1).
	Sent dcs.Instant
	// First is when the call's first copy was sent.
	First dcs.Instant
	// Clear reports, with an error, that no copy was executed or ever will be.
	Clear bool
}

// Do calls f with one endpoint after another, hedged, until one copy is answered or
// ctx ends. The request must be safe to send twice (P13), and ctx must have a
// deadline. f must return when its context ends. It may be called concurrently.
//
// The error is one of these:
//
//   - the error of f with a Final verdict
//   - a [Fault] with the error of an Unconfirmed verdict that every endpoint which
//     can be reached has given
//   - [dcs.ErrClosed] after Close
//   - the error of ctx, or a Fault that wraps it and the failure of an endpoint
func Do[T any](ctx context.Context, p *Pool, c Class, f func(ctx context.Context, endpoint string) (T, error)) (Answer[T], error) {
	return DoAt(ctx, p, c, func() string { return "" }, f)
}

// DoAt is Do for a call that prefers one endpoint, such as a call of a session that
// is bound to it. at returns that endpoint, as for [Pool.PickAt].
func DoAt[T any](ctx context.Context, p *Pool, c Class, at func() string, f func(ctx context.Context, endpoint string) (T, error)) (Answer[T], error) {
	d := &call[T]{p: p, class: c, at: at, f: f, idle: make(chan struct{}, 1)}
	d.answer.Clear = true
	a, err := d.run(ctx)
	if a.Endpoint != "" {
		dcs.AnsweredBy(ctx, a.Endpoint)
	}
	return a, err
}

// run runs rounds of copies until the call is over.
func (d *call[T]) run(ctx context.Context) (Answer[T], error) {
	p := d.p
	for round := 0; ; round++ {
		if p.life.Err() != nil {
			return d.answer, dcs.ErrClosed
		}
		if err := ctx.Err(); err != nil {
			return d.answer, d.given(err)
		}
		if err := p.Admit(ctx); errors.Is(err, dcs.ErrClosed) {
			return d.answer, dcs.ErrClosed
		} else if err != nil {
			d.throttled(err)
			return d.answer, d.given(cmp.Or(ctx.Err(), context.DeadlineExceeded))
		}
		if d.round(ctx, round) {
			d.refusals.Served(p, d.answer.Endpoint)
			return d.answer, d.err
		}
		if at, err := d.refusals.Unanimous(p); err != nil {
			d.answer.Endpoint = at
			return d.answer, &Fault{at, err}
		}
		d.backOff(ctx, round)
	}
}

// call is one call of Do.
type call[T any] struct {
	p     *Pool
	class Class
	at    func() string
	f     func(context.Context, string) (T, error)
	idle  chan struct{} // receives when a copy ends

	mu     sync.Mutex
	cancel context.CancelCauseFunc // of the round
	tried  []string                // in this round
	open   int                     // copies of this round under way
	over   bool                    // answered, or refused by a Final verdict
	answer Answer[T]
	err    error  // the answer's
	fault  *Fault // the last failure

	refusals Refusals
}

// round runs copies until one is answered or all have failed. It reports whether
// the call has ended.
func (d *call[T]) round(ctx context.Context, n int) bool {
	deadline, _ := ctx.Deadline()
	rctx, stop := context.WithTimeout(ctx, d.p.AttemptTimeout(d.class, time.Until(deadline), n))
	defer stop()
	rctx, cancel := context.WithCancelCause(rctx)
	defer cancel(nil)
	d.mu.Lock()
	d.cancel, d.tried = cancel, d.tried[:0]
	d.mu.Unlock()

	after := d.p.HedgeAfter(d.class)
	hedge := time.AfterFunc(after, func() { d.hedge(rctx, after) })
	defer hedge.Stop()
	for d.more(rctx) {
		d.copy(rctx, false)
	}
	for {
		d.mu.Lock()
		over, open := d.over, d.open
		d.mu.Unlock()
		if over || open == 0 {
			return over
		}
		<-d.idle
	}
}

// more reports whether the calling goroutine may run one more copy, and counts it in
// open.
func (d *call[T]) more(ctx context.Context) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over || ctx.Err() != nil || d.open >= maxCopies || len(d.tried) > 0 && d.p.isGated() {
		return false
	}
	if len(d.tried) > 0 && len(d.tried) >= d.p.size() {
		return false
	}
	d.open++
	return true
}

// hedge runs a second copy, and further ones as long as they fail. A third copy is
// scheduled for later. If no hedge is allowed now, the second one is tried again
// later too.
func (d *call[T]) hedge(ctx context.Context, after time.Duration) {
	if !d.mayHedge(ctx) {
		return
	}
	if !d.p.AllowHedge() {
		time.AfterFunc(2*after, func() { d.hedge(ctx, 2*after) })
		return
	}
	again := time.AfterFunc(2*after, func() { d.hedge(ctx, 2*after) })
	defer again.Stop()
	for d.mayHedge(ctx) && d.more(ctx) {
		d.copy(ctx, true)
	}
}

// mayHedge reports whether a copy may be sent in addition to those in flight.
func (d *call[T]) mayHedge(ctx context.Context) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.open > 0 && d.open < maxCopies && !d.over && ctx.Err() == nil && len(d.tried) < d.p.size() && !d.p.isGated()
}

// copy runs one copy. The caller must have counted it in open.
func (d *call[T]) copy(ctx context.Context, hedge bool) {
	d.mu.Lock()
	a := d.p.PickAt(d.class, d.at(), d.tried...)
	if hedge {
		a.Hedge()
	}
	d.tried = append(d.tried, a.Endpoint())
	sent := dcs.Now()
	if d.answer.First.IsZero() {
		d.answer.First = sent
	}
	d.mu.Unlock()

	value, err := d.f(ctx, a.Endpoint())
	var v Verdict
	if err != nil {
		v = d.p.o.Judge(err)
		if ctx.Err() != nil && !v.Final && !v.Unconfirmed && !v.Local {
			err = context.Cause(ctx) // the copy was cut short: its own error follows from that
		}
	}
	a.End(err)

	d.mu.Lock()
	defer d.mu.Unlock()
	d.open--
	select {
	case d.idle <- struct{}{}:
	default:
	}
	switch {
	case d.over:
	case err == nil:
		d.answer.Endpoint, d.answer.Value, d.answer.Sent, d.answer.Clear = a.Endpoint(), value, sent, false
		d.end(nil)
	case v.Final:
		// P10: another copy may still be executed.
		d.answer.Endpoint, d.answer.Clear = a.Endpoint(), d.answer.Clear && d.open == 0
		d.end(err)
	default:
		d.failed(&Fault{a.Endpoint(), err}, v, sent.Elapsed())
	}
}

// end ends the call with the result of one copy. Under d.mu.
func (d *call[T]) end(err error) {
	d.over, d.err = true, err
	d.cancel(ErrOvertaken)
}

// failed records the failure of one copy. Under d.mu.
func (d *call[T]) failed(f *Fault, v Verdict, took time.Duration) {
	d.answer.Clear = d.answer.Clear && v.Refused
	d.refusals.Note(f.Endpoint, f.Err, v)
	switch {
	case errors.Is(f.Err, context.Canceled) || errors.Is(f.Err, ErrOvertaken):
		return // the copy was given up
	case isContext(f.Err) && d.fault != nil:
		return // an earlier error is more useful than a timeout
	case isContext(f.Err):
		f.Err = fmt.Errorf("no answer within %v", round(took))
	case v.Local && d.fault != nil && d.fault.Endpoint != "":
		return
	case v.Local:
		f.Endpoint = ""
	}
	d.answer.Endpoint, d.fault = f.Endpoint, f
}

// given returns the error of a call whose time is over. It reports a refusal that
// only an operator can end, even if other failures came later. It does not if the last
// failure of some endpoint was a Doubt.
func (d *call[T]) given(ctxErr error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.fault
	if at, err := d.refusals.uncontradicted(); err != nil {
		f = &Fault{at, err}
	} else if f != nil && dcs.KindOf(f.Err) == dcs.ErrUnauthorized { //nolint:errorlint // KindOf returns a sentinel
		f = &Fault{f.Endpoint, errors.New(f.Err.Error())}
	}
	if f == nil {
		return ctxErr
	}
	d.answer.Endpoint = f.Endpoint
	return &Fault{f.Endpoint, fmt.Errorf("%w (%w)", f.Err, ctxErr)}
}

// throttled records why no request may be sent now.
func (d *call[T]) throttled(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var f *Fault
	if errors.As(err, &f) && d.fault == nil {
		d.answer.Endpoint, d.fault = f.Endpoint, f
	}
}

// backOff pauses between two rounds, with full jitter.
func (d *call[T]) backOff(ctx context.Context, round int) {
	d.p.pause(ctx, betweenRounds.Bound(round))
}

// pause waits for a random time of at most ceiling, or until ctx or the Pool
// ends.
func (p *Pool) pause(ctx context.Context, ceiling time.Duration) {
	p.mu.Lock()
	d := p.jitter(ceiling)
	p.mu.Unlock()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	case <-p.life.Done():
	}
}

// isContext reports whether err means that an attempt ended without an answer.
func isContext(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrOvertaken)
}

func isDeadline(err error) bool { return errors.Is(err, context.DeadlineExceeded) }

func round(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
