package dcs

import (
	"context"
	"errors"
	"fmt"
)

// claim is the right to write one key for the session. It allows one attempt at a
// time, and none while an earlier one is ambiguous (P17). It belongs to the lease
// that the attempt carries (P16), and no move begins while a claim exists (P20).
type claim struct {
	key    string
	lease  *leaseState
	newest Revision // the largest revision that the Store had seen when the claim was taken (P11)
	done   chan struct{}
}

// errBusy is the cause of an error with which nothing was sent.
var errBusy = errors.New("nothing was sent: an earlier attempt on this key, its removal, or the move to a fresh lease is not settled yet")

// tryClaim takes the claim on key, or returns a channel that is closed when it may be
// tried again. Called under mu.
func (s *Session) tryClaim(key string) (*claim, <-chan struct{}) {
	if c := s.claims[key]; c != nil { // P17
		return nil, c.done
	}
	if moving := s.migration.moving; moving != nil { // P20
		return nil, moving
	}
	c := &claim{key: key, lease: s.lease, newest: s.store.newest(), done: make(chan struct{})}
	s.claims[key] = c
	return c, nil
}

// tryClaimLock is tryClaim for an Acquire, which must not begin while a removal
// of the key is pending. Called under mu.
func (s *Session) tryClaimLock(key string) (*claim, <-chan struct{}) {
	if gone := s.removals[key].done; gone != nil { // P17
		return nil, gone
	}
	return s.tryClaim(key)
}

// claim waits for the claim on key until ctx ends.
func (s *Session) claim(ctx context.Context, key string) (*claim, error) {
	return s.awaitClaim(ctx, key, s.tryClaim)
}

// awaitClaim waits until try returns the claim on key, or until ctx ends.
func (s *Session) awaitClaim(ctx context.Context, key string, try func(key string) (*claim, <-chan struct{})) (*claim, error) {
	for {
		s.mu.Lock()
		c, busy := try(key)
		s.mu.Unlock()
		if c != nil {
			return c, nil
		}
		select {
		case <-busy:
		case <-s.done:
			return nil, s.Err()
		case <-ctx.Done():
			return nil, &Error{Kind: ErrUnavailable, Err: fmt.Errorf("%w: %w", errBusy, ctx.Err())}
		}
	}
}

// unclaim ends the claim. Its attempt must be settled.
func (s *Session) unclaim(c *claim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.claims[c.key] == c {
		delete(s.claims, c.key)
	}
	close(c.done)
}

// handOver settles an ambiguous attempt in the background by calling f, and ends the
// claim after that. If the session has ended, the attempt is left to the end of its
// lease.
func (s *Session) handOver(c *claim, f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.spawn(func() { defer s.unclaim(c); f() }) {
		delete(s.claims, c.key)
		close(c.done)
	}
}

// settleResult is the outcome of settling an attempt.
type settleResult uint8

const (
	landed      settleResult = iota // it was applied
	refused                         // it was not applied and never will be
	fenced                          // it cannot be applied any more; a read shows whether it was (P11)
	unsupported                     // the store cannot settle it
	interrupted                     // the session ended first
)

// settle calls Store.Settle until the outcome of an ambiguous Commit is known or the
// session ends.
func (s *Session) settle(err error) (Revision, settleResult) {
	var e *Error
	if !errors.As(err, &e) {
		return 0, unsupported
	}
	for n := 0; ; n++ {
		ctx, cancel := s.call(s.life)
		rev, err := s.store.Settle(ctx, e)
		cancel()
		var next *Error
		switch {
		case err == nil:
			return rev, landed
		case errors.Is(err, errors.ErrUnsupported), errors.Is(err, ErrInvalid):
			return 0, unsupported // a repeated call gets the same answer
		case errors.Is(err, ErrConflict), errors.Is(err, ErrLost):
			return 0, refused
		case errors.Is(err, ErrAmbiguous) && errors.As(err, &next) && (next.Attempt != nil || next.Fenced):
			if e = next; e.Fenced {
				return 0, fenced
			}
		}
		if pause(s.life, n) != nil {
			return 0, interrupted
		}
	}
}

// endUnsettled ends the session because the outcome of an Acquire cannot be
// determined. Its key may be bound to the lease, so the lease must go (P17).
// Revoking the lease resolves the attempt only if every copy of the lease's Grant was
// answered. A late copy could grant the lease again, for one TTL and without a
// session that renews it.
func (s *Session) endUnsettled(key string, err error) {
	s.end(&Error{Op: "Acquire", Key: key, Kind: ErrExpired, Err: fmt.Errorf("the store cannot settle an ambiguous Acquire: %w", opaque(err))})
}

// remove deletes an incarnation of an own key. It returns nil if the incarnation is
// gone, no matter which client removed it.
func (s *Session) remove(ctx context.Context, key string, token Revision) error {
	own := CreatedAt(key, token) // P18
	_, err := s.store.Commit(ctx, Txn{If: []Cond{own}, Then: []Write{Delete(key)}})
	if errors.Is(err, ErrConflict) {
		return nil
	}
	return err
}

// removeForGood deletes an incarnation and tries again until it is known to be gone.
// It reports whether it is. err is the error of an earlier attempt, or nil. An
// ambiguous deletion is settled first. If that is not possible, it is enough to
// delete again, because no late copy has an effect once the incarnation is gone.
func (s *Session) removeForGood(key string, token Revision, err error) bool {
	for n := 0; s.life.Err() == nil; n++ {
		if errors.Is(err, ErrAmbiguous) {
			if _, how := s.settle(err); how == landed {
				return true
			}
		}
		if n > 0 && pause(s.life, n) != nil {
			return false
		}
		ctx, cancel := s.call(s.life)
		err = s.remove(ctx, key, token)
		cancel()
		if err == nil {
			return true
		}
	}
	return false
}
