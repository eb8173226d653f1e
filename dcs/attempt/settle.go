package attempt

import (
	"context"
	"errors"
	"net"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// immediateRetries is how often in a row a condition on Created is resolved again
// without a pause.
const immediateRetries = 3

var (
	errRefusedForNothing = errors.New("the store refused the transaction although its conditions hold")
	errMarkerGone        = errors.New("the marker of the attempt is gone: it is unknown whether the attempt was applied")
)

// attempt sends h until its outcome is known or the time of sending is over, and then
// settles it in the time that ctx has left. Nil means that the marker was lost and
// that h was not applied and never will be. attempt returns the slot to the pool or
// sets it aside.
func (c *Committer) attempt(ctx, sending context.Context, h *pendingAttempt) *outcome {
	// Copies that are unanswered when the outcome is known end with this call.
	sending, stop := context.WithCancel(sending)
	defer stop()
	v := c.newCopies(h.copy)
	lost, times := false, 0
	for {
		if lost && v.unanswered == 0 {
			// P11: h cannot be applied any more. That it was not applied is certain
			// only if every copy was answered.
			if v.nothingWritten() {
				return nil
			}
			return c.conclude(h, h.fenced())
		}
		e, more := v.next(sending)
		if !more {
			break
		}
		if e.err != nil || e.ans.Outcome == Unknown {
			h.note(e.err)
			if f := c.finalFailure(e.err); f != nil && v.nothingWritten() {
				return c.conclude(h, &outcome{fail: f})
			} else if f != nil {
				h.found = f
				break
			}
			v.fails++
			continue
		}
		if e.ans.Outcome == Applied {
			return c.conclude(h, &outcome{rev: e.ans.Revision})
		}
		verdict, rev := h.judge(e.ans)
		switch verdict {
		case applied:
			return c.conclude(h, &outcome{rev: rev})
		case markerLost:
			lost, v.stopSending = true, true
			continue
		case refused:
			// P10: another copy may still find that the condition holds.
			if v.nothingWritten() {
				return c.conclude(h, &outcome{fail: h.found})
			}
		default:
			if times++; times > immediateRetries {
				h.note(errRefusedForNothing)
				v.fails++
			}
			continue
		}
		break
	}
	if lost {
		return c.conclude(h, h.fenced())
	}
	if v.nothingWritten() {
		// P14: every copy was refused, so nothing was written, and nothing will be.
		return c.conclude(h, &outcome{fail: c.outOfTime(sending, h.last)})
	}
	stop()
	return c.fence(ctx, h, false)
}

// settle settles an attempt with an unknown outcome. If it has been settled already,
// settle returns its outcome.
func (c *Committer) settle(ctx context.Context, h *pendingAttempt) *outcome {
	select {
	case h.settling <- struct{}{}:
		defer func() { <-h.settling }()
	case <-ctx.Done():
		return &outcome{fail: h.ambiguous(cutShort(ctx, nil))}
	}
	if h.done != nil {
		return h.done
	}
	return c.fence(ctx, h, true)
}

// fence takes the marker so that the attempt can never be applied, or discovers that it
// already has been. A read could prove that it was applied, but never that it will not
// be (P11).
func (c *Committer) fence(ctx context.Context, h *pendingAttempt, kept bool) *outcome {
	inner, stop := context.WithCancel(ctx)
	defer stop()
	v := c.newCopies(h.fenceCopy)
	for {
		e, more := v.next(inner)
		if !more {
			break
		}
		if e.err != nil || e.ans.Outcome == Unknown {
			h.note(e.err)
			v.fails++
			continue
		}
		if e.ans.Outcome == Applied {
			no := h.abortedOutcome(e.ans.Revision)
			no.removed = e.removed
			return c.conclude(h, no)
		}
		switch verdict, rev := h.judgeMarker(e.ans); verdict {
		case applied:
			return c.conclude(h, &outcome{rev: rev})
		case aborted:
			return c.conclude(h, h.abortedOutcome(e.ans.entry(h.marker.Key).Modified))
		case markerLost:
			return c.conclude(h, h.fenced())
		default:
			h.note(errRefusedForNothing)
			v.fails++
		}
	}
	out := &outcome{fail: h.ambiguous(cutShort(ctx, h.last))}
	if kept {
		return out
	}
	c.pool.setAside(h) // P12
	return out
}

// fenceCopy sends one copy of the transaction that only takes the marker. A store that
// is full accepts nothing but deletions. Deleting the marker under its condition is as
// definite as rewriting it, because neither the name nor the revision comes back
// (P7, P11).
func (h *pendingAttempt) fenceCopy(ctx context.Context, n position) event {
	r := n.request(h.marker, dcs.Txn{})
	r.Marker.Nonce = h.abortNonce
	r.Marker.Remove = h.full.Load()
	e := h.c.send(ctx, r)
	e.removed = r.Marker.Remove
	return e
}

// conclude records the outcome of h and returns its slot to the pool, ready for the next
// Commit. The revision of its marker is known then, or the marker is given up.
func (c *Committer) conclude(h *pendingAttempt, o *outcome) *outcome {
	s := h.slot
	switch {
	case o.removed:
		s.forget()
	case o.fail == nil:
		s.modified = o.rev
	case o.fail.Kind == dcs.ErrAmbiguous: //nolint:errorlint // compares the kind only
		s.forget()
	}
	h.done = o
	c.pool.settled(h)
	if o.aborted && h.found != nil {
		// The conflict or loss that a copy met is definite by now.
		h.done = &outcome{fail: h.found}
	}
	return h.done
}

func (h *pendingAttempt) abortedOutcome(marker dcs.Revision) *outcome {
	return &outcome{rev: marker, aborted: true, why: h.last}
}

// fenced returns the final outcome after the marker was lost.
func (h *pendingAttempt) fenced() *outcome {
	e := h.c.fail("Commit", h.key, dcs.ErrAmbiguous, errMarkerGone)
	e.Fenced = true
	return &outcome{fail: e}
}

func (h *pendingAttempt) ambiguous(cause error) *dcs.Error {
	e := h.c.fail("Commit", h.key, dcs.ErrAmbiguous, cause)
	e.Attempt = h
	return e
}

// note records a failure as the cause for a later error, and whether the store is full. A
// connection that the client itself closed does not replace an earlier cause.
func (h *pendingAttempt) note(err error) {
	if err != nil && (h.last == nil || !errors.Is(err, net.ErrClosed)) {
		h.last = asCause(err)
	}
	if errors.Is(err, ErrFull) {
		h.full.Store(true)
	}
}

// asCause returns err without its kind, unless that is ErrUnauthorized or ErrClosed. A
// transport's kind must not show through the outcome that the marker proved, or
// through the failure of a Commit that sent nothing.
func asCause(err error) error {
	switch dcs.KindOf(err) {
	case nil, dcs.ErrUnauthorized, dcs.ErrClosed: //nolint:errorlint // KindOf returns a sentinel
		return err
	}
	return opaque(err)
}

// opaque returns an error with err's text that matches no sentinel.
func opaque(err error) error {
	if err == nil {
		return nil
	}
	return errors.New(err.Error())
}
