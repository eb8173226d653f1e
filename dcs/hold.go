package dcs

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// Hold is a lock that its Session holds: one incarnation of one key. It ends
// with the Session, with Release, or when the store says that the key is gone
// or another's; over is final.
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

// Valid reports whether the lock is held at this moment. It asks the clocks,
// not the store: true means that nobody else who goes through a Backend can
// have taken the lock yet. It takes well under a microsecond and allocates
// nothing. What you do after it returned is not covered by it: leave yourself
// time (see [Hold.Remaining]), or use [Hold.Guard].
func (h *Hold) Valid() bool { return !h.over.Load() && h.s.live() }

// Remaining returns the time until the deadline, 0 when not valid.
func (h *Hold) Remaining() time.Duration {
	if h.over.Load() {
		return 0
	}
	return h.s.remaining()
}

// Deadline returns the instant at which the Hold stops being Valid unless a
// renewal is confirmed before. Of a Hold that is over it means nothing.
func (h *Hold) Deadline() Instant { return h.s.Deadline() }

// Done is closed when the hold is over, for whatever reason.
func (h *Hold) Done() <-chan struct{} { return h.done }

// Err says why the hold is over; nil before. ErrLost: the key was deleted or
// taken, or the lease ended, on the store's word. ErrExpired: the deadline
// passed. ErrReleased: Release, or the Session's Close. ErrClosed: the Store
// was closed.
func (h *Hold) Err() error {
	over := h.s.Err()
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	if h.err == nil {
		return over
	}
	return h.err
}

// Guard returns the condition that makes a Commit a store-enforced fenced
// write: it holds while the lock is this incarnation, however often its value
// was rewritten. It is a plain value and stays meaningful after the Hold.
func (h *Hold) Guard() Cond { return CreatedAt(h.key, h.token) }

// Confirm proves the hold with a renewal whose confirming request was sent
// after the call (P5): nil says that the lock was held at some moment between
// call and return, on a quorum's word. It spends at most the budget;
// ErrUnavailable says that nobody could tell and that the hold may still be
// valid; anything else is what [Hold.Err] says.
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
			s.loseHold(h, fmt.Errorf("a write under its guard was refused: %w", opaque(err)))
			s.mu.Unlock()
		}
	case errors.Is(err, ErrLost):
		s.leaseLost(c.lease, err) // P14
	}
	s.unclaim(c)
	return h.failure(op, err)
}

// failure is what a call returns: the Hold's own end comes before what the call
// met because of it.
func (h *Hold) failure(op string, err error) error {
	return writeFailure(op, h.key, err, h.Err())
}

// settleWrite settles an unclear rewriting of an own key in the background. Its
// outcome matters to nobody, only that it is over. Where the store cannot
// settle it, it may still land at any time; then no move is made any more
// (P20).
func (s *Session) settleWrite(c *claim, err error) {
	s.handOver(c, func() {
		if _, how := s.settle(err); how == unsupported {
			s.mu.Lock()
			s.unsettleable = true
			s.mu.Unlock()
		}
	})
}

// Release gives the lock up and deletes it. Valid is false and Done closed
// before anything is sent (P6). It deletes its own incarnation only, whoever
// holds the key by now. Nil says that the incarnation is gone. After
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
		// An earlier attempt on the key is not settled: this Release's own
		// first one, or an Update, or a move.
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

// removeLater sees to the removal as soon as the key can be claimed.
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

// release ends the hold because its owner gives it up.
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

// lose ends a Hold whose key is somebody else's on the store's word. Called
// under mu.
func (s *Session) loseHold(h *Hold, reason error) {
	if h.err != nil {
		return
	}
	s.dropHold(h, &Error{Op: "Renew", Key: h.key, Kind: ErrLost, Err: reason})
	s.log.Warn("lock lost", "key", h.key, "token", h.token, "reason", reason)
}

// drop takes h out of the session. Called under mu.
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
