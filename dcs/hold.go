package dcs

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// Hold is a lock held by a Session: one incarnation of one key. It ends with the
// Session, with Release, or when the store reports that the key was deleted or
// belongs to another session. A Hold that has ended stays so.
//
// All methods are safe for concurrent use.
type Hold struct {
	s     *Session
	key   string
	token Revision
	done  chan struct{}
	over  atomic.Bool

	// Under the session's mu.
	err      error
	gone     bool          // the incarnation is known to be deleted
	removing bool          // a goroutine waits to delete it
	removed  chan struct{} // closed when a released incarnation is deleted
	early    map[time.Duration]*earlyEnd
}

// Key returns the lock's key.
func (h *Hold) Key() string { return h.key }

// Token returns the fencing token: the revision at which the lock was taken.
// It is larger than that of every earlier Hold of the key.
func (h *Hold) Token() Revision { return h.token }

// Valid reports whether the lock is held at this moment. It reads the clocks and
// does not ask the store. True means that no other client that goes through a
// Backend can have taken the lock yet. Valid takes well under a microsecond and
// allocates nothing. It does not cover the time after it has returned: the caller
// must leave itself time (see [Hold.Remaining]) or use [Hold.Guard].
func (h *Hold) Valid() bool { return !h.over.Load() && h.s.live() }

// Remaining returns the time until the deadline. It is 0 if the Hold is not Valid.
func (h *Hold) Remaining() time.Duration {
	if h.over.Load() {
		return 0
	}
	return h.s.remaining()
}

// Deadline returns the instant at which the Hold stops being Valid unless a
// renewal is confirmed before. It has no meaning for a Hold that has ended.
func (h *Hold) Deadline() Instant { return h.s.Deadline() }

// Done returns a channel that is closed when the Hold ends, for any reason.
func (h *Hold) Done() <-chan struct{} { return h.done }

// Err returns the reason why the Hold ended, or nil while it has not. ErrLost
// reports that the store has confirmed that the key was deleted or taken, or that
// the lease ended. ErrExpired reports that the deadline passed. ErrReleased reports
// Release, or Close of the Session. ErrClosed reports that the Store was closed.
func (h *Hold) Err() error {
	over := h.s.Err()
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	if h.err == nil {
		return over
	}
	return h.err
}

// Guard returns the condition that fences a Commit by the store. It holds while the
// lock is this incarnation, no matter how often its value was rewritten. It is a
// plain value and may be used after the Hold has ended.
func (h *Hold) Guard() Cond { return CreatedAt(h.key, h.token) }

// Confirm verifies the Hold with a renewal that is sent after the call (P5). Nil
// reports that the lock was held at some moment between the call and its return,
// on the word of a quorum. Confirm takes at most the budget. ErrUnavailable reports
// that the store did not confirm it and that the Hold may still be Valid. Any other
// error is that of [Hold.Err].
func (h *Hold) Confirm(ctx context.Context) error {
	const op = "Confirm"
	if err := h.Err(); err != nil {
		return withOp(op, h.key, err)
	}
	ctx, cancel := context.WithTimeout(ctx, h.s.timing.RetryTimeout)
	defer cancel()
	err := h.s.confirm(ctx)
	if over := h.Err(); over != nil {
		err = over
	}
	if err != nil {
		return withOp(op, h.key, err)
	}
	return nil
}

// Update rewrites the lock's value. The incarnation, the token and the binding
// stay. ErrLost, ErrExpired and ErrReleased report that the Hold is over and that
// nothing was written. ErrAmbiguous reports that the new value may have been
// written or may still be, also where the Hold has ended meanwhile (see
// [Hold.Err]). The session settles it in the background before the next write of
// this key.
func (h *Hold) Update(ctx context.Context, value []byte) error {
	const op = "Update"
	s := h.s
	ctx, cancel := s.call(ctx)
	defer cancel()
	c, err := s.claim(ctx, h.key)
	if err != nil {
		return h.failure(op, err)
	}
	if err := h.Err(); err != nil {
		s.unclaim(c)
		return withOp(op, h.key, err)
	}
	_, err = s.store.Commit(ctx, Txn{
		If:   []Cond{h.Guard()}, // P18
		Then: []Write{PutLeased(h.key, value, c.lease.ID())},
	})
	switch {
	case err == nil:
		s.unclaim(c)
		return nil
	case errors.Is(err, ErrAmbiguous):
		s.settleWrite(c, err)
		return h.failure(op, err)
	case errors.Is(err, ErrConflict):
		var e *Error
		if errors.As(err, &e) && (e.Current == nil || e.Current.Created != h.token) {
			s.mu.Lock()
			s.loseHold(h, fmt.Errorf("the store rejected a write under the lock's guard: %w", opaque(err)))
			s.mu.Unlock()
		}
	case errors.Is(err, ErrLost):
		s.leaseLost(c.lease, err) // P14
	}
	s.unclaim(c)
	return h.failure(op, err)
}

// failure returns the error of a call. The end of the Hold comes before an error
// that it caused.
func (h *Hold) failure(op string, err error) error {
	return writeFailure(op, h.key, err, h.Err())
}

// settleWrite resolves an ambiguous Update in the background. Callers need to know
// only that it has been resolved. If the store cannot resolve it, the write may be
// applied at any time, so that no move may begin any more (P20).
func (s *Session) settleWrite(c *claim, err error) {
	s.handOver(c, func() {
		if _, how := s.settle(err); how == unsupported {
			s.mu.Lock()
			s.migration.unsettleable = true
			s.mu.Unlock()
		}
	})
}

// Release ends the Hold and deletes the lock. Valid is false and Done is closed
// before anything is sent (P6). Release deletes its own incarnation only, and never
// the lock of a later holder. Nil reports that the incarnation is gone. After
// ErrAmbiguous or ErrUnavailable the Session goes on trying in the background;
// calling Release again is safe and waits for that. After [Session.Abandon]
// Release sends nothing and returns ErrReleased.
func (h *Hold) Release(ctx context.Context) error {
	const op = "Release"
	s := h.s
	ctx, cancel := context.WithTimeout(ctx, s.timing.RetryTimeout)
	defer cancel()
	if s.isAbandoned() && !h.isGone() {
		return withOp(op, h.key, errAbandoned)
	}
	h.release() // P6
	c, err := s.claim(ctx, h.key)
	if h.isGone() {
		if c != nil {
			s.unclaim(c)
		}
		return nil
	}
	if c == nil && s.Err() == nil {
		// An earlier attempt on the key is not settled: an earlier call of Release,
		// an Update, or a move.
		h.removeLater()
		return withOp(op, h.key, &Error{Kind: ErrAmbiguous, Err: err})
	}
	if err = s.remove(ctx, h.key, h.token); err == nil {
		h.setGone()
	}
	if c != nil && err != nil {
		s.handOver(c, func() { h.removeForGood(err) })
	} else if c != nil {
		s.unclaim(c)
	}
	if err != nil {
		return withOp(op, h.key, err)
	}
	return nil
}

func (h *Hold) removeForGood(err error) {
	if h.s.removeForGood(h.key, h.token, err) {
		h.setGone()
	}
}

// removeLater deletes the incarnation in the background once the key can be claimed.
func (h *Hold) removeLater() {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	if h.removing {
		return
	}
	h.removing = h.s.spawn(func() {
		if c, err := h.s.claim(h.s.life, h.key); err == nil {
			h.removeForGood(nil)
			h.s.unclaim(c)
		}
	})
}

// release ends the hold on behalf of its owner.
func (h *Hold) release() {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	if h.err != nil {
		return
	}
	h.s.removals[h.key] = removal{h.removed, Now()} // P17
	h.s.dropHold(h, &Error{Op: "Release", Key: h.key, Kind: ErrReleased})
	h.s.log.Info("lock released", "key", h.key, "token", h.token)
}

func (h *Hold) isGone() bool {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	return h.gone
}

// setGone records that the incarnation is deleted. If h was released, its key may
// be acquired again.
func (h *Hold) setGone() {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	h.gone = true
	if h.s.removals[h.key].done == h.removed {
		close(h.removed)
		delete(h.s.removals, h.key)
	}
}

// loseHold ends a Hold whose key was deleted or belongs to another session, on the
// word of the store. Called under mu.
func (s *Session) loseHold(h *Hold, reason error) {
	if h.err != nil {
		return
	}
	s.dropHold(h, &Error{Op: "Renew", Key: h.key, Kind: ErrLost, Err: reason})
	s.log.Warn("lock lost", "key", h.key, "token", h.token, "reason", reason)
}

// dropHold removes h from the session. Called under mu.
func (s *Session) dropHold(h *Hold, err error) {
	h.finish(err)
	delete(s.holds, h.key)
}

// finish ends h. Called under mu.
func (h *Hold) finish(err error) {
	if h.err != nil {
		return
	}
	h.over.Store(true)
	h.err = err
	close(h.done)
	for _, e := range h.early {
		h.s.closeEarly(e)
	}
	h.s.queueEvent(StateEvent{Key: h.key, Token: h.token, From: h.s.state, To: Lost, Reason: err})
}
