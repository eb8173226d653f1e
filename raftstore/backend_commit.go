package raftstore

import (
	"context"
	"errors"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
)

// Commit applies t if all its conditions hold. All copies that are sent bear the same
// number, so that t is applied at most once (P15). If the outcome is unknown, Commit
// cancels t within the budget. If that fails too, the error is ErrAmbiguous, and the
// caller may pass it to Settle.
func (b *frontend) Commit(ctx context.Context, t dcs.Txn) (dcs.Revision, error) {
	key := ""
	if len(t.Then) > 0 {
		key = t.Then[0].Key
	}
	a := &unsettled{b: b, op: "Commit", key: key}
	r, err := b.execute(ctx, a, &state.Command{Kind: state.KindTxn, Txn: t})
	if err != nil {
		return 0, err
	}
	return b.verdict(a, r, dcs.ErrUnavailable)
}

// verdict turns the result of a Commit into its return values. withdrawn is the kind
// of the error for a Commit that was cancelled before it was applied.
func (b *frontend) verdict(a *unsettled, r state.Result, withdrawn error) (dcs.Revision, error) {
	switch r.Status {
	case state.StatusDone:
		b.minRevision.Raise(r.Revision)
		return r.Revision, nil
	case state.StatusConflict:
		e := b.fail(a.op, a.key, dcs.ErrConflict, "", errors.New(r.Detail))
		e.Current = r.Current
		return 0, e
	case state.StatusDeadLease:
		return 0, b.fail(a.op, a.key, dcs.ErrLost, "", errGone)
	case state.StatusNested:
		return 0, b.fail(a.op, a.key, dcs.ErrInvalid, "", errors.New(r.Detail))
	case state.StatusCancelled:
		return 0, b.fail(a.op, a.key, withdrawn, "", errWithdrawn)
	default:
		e := b.fail(a.op, a.key, dcs.ErrAmbiguous, "", errForgotten)
		e.Fenced = true
		return 0, e
	}
}

// execute proposes a numbered command and returns its result. Its error can be
// returned to the caller of op as it is. A part of the budget is reserved for a
// Cancel.
func (b *frontend) execute(whole context.Context, a *unsettled, c *state.Command) (state.Result, error) {
	deadline := time.Now().Add(b.retryTimeout) //nolint:forbidigo // contexts speak this clock; monotonic
	if own, ok := whole.Deadline(); ok && own.Before(deadline) {
		deadline = own
	}
	ctx, cancel := context.WithDeadline(whole, deadline.Add(-time.Until(deadline)/4))
	defer cancel()
	for {
		s, o := b.client(ctx)
		if o.err != nil {
			return state.Result{}, b.unavailable(ctx, a.op, a.key, o) // nothing was sent
		}
		seq, low, err := s.begin(ctx, b.life.Done())
		if err != nil {
			return state.Result{}, b.unavailable(ctx, a.op, a.key, outcome{err: err})
		}
		a.client, a.seq = s, seq
		c.Client, c.Seq, c.Low = s.id, seq, low
		o = b.nodes.ask(ctx, &request{op: opPropose, key: c.Key(), data: c.Encode()})
		switch {
		case o.err != nil && o.unclear:
			return b.clear(whole, deadline, a, o)
		case o.err != nil: // no copy was proposed, and none is in flight
			s.end(seq)
			return state.Result{}, b.unavailable(ctx, a.op, a.key, o)
		case o.reply.result.Status == state.StatusUnknownClient:
			b.dropClient(s)
			if !o.unclear {
				// The only copy reached a cluster that had discarded the
				// client, so it was not applied. A new client may try again.
				continue
			}
		}
		s.end(seq)
		return o.reply.result, nil
	}
}

// clear settles an unclear command within the rest of the budget, and leaves it to
// the background if that is not enough.
func (b *frontend) clear(whole context.Context, deadline time.Time, a *unsettled, o outcome) (state.Result, error) {
	ctx, cancel := context.WithDeadline(whole, deadline)
	defer cancel()
	if ctx.Err() == nil {
		if r, err := a.settle(ctx); err == nil {
			return r, nil
		}
	}
	b.settles.enqueue(a)
	e := b.fail(a.op, a.key, dcs.ErrAmbiguous, o.endpoint, withContext(ctx, o.err))
	e.Attempt = a
	return state.Result{}, e
}
