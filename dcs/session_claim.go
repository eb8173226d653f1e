package dcs

import (
	"context"
	"errors"
	"fmt"
)

// claim is the right to write one key for the session: one attempt at a time,
// and none while an earlier one is unclear (P17). It belongs to the lease that
// the attempt carries (P16); no move begins while there is one (P20).
type claim struct {
	key    string
	lease  *leaseState
	newest Revision // the newest one that the Store had seen when the claim was taken (P11)
	done   chan struct{}
}

// errBusy says why nothing was sent.
var errBusy = errors.New("nothing was sent: an earlier attempt on this key, its removal, or the move to a fresh lease is not settled yet")

// tryClaim takes the claim on key, or returns what to wait for. Called under
// mu.
func (s *Session) tryClaim(key string) (*claim, <-chan struct{}) {
	if c := s.claims[key]; c != nil { // P17
		return nil, c.done
	}
	if s.moving != nil { // P20
		return nil, s.moving
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

// unclaim ends the claim: its attempt is settled.
func (s *Session) unclaim(c *claim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.claims[c.key] == c {
		delete(s.claims, c.key)
	}
	close(c.done)
}

// handOver lets f finish an unclear attempt in the background; the claim ends
// with it. A session that is over leaves the attempt to the end of its lease.
func (s *Session) handOver(c *claim, f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.spawn(func() { defer s.unclaim(c); f() }) {
		delete(s.claims, c.key)
		close(c.done)
	}
}

// fate is what became of an attempt.
type settleResult uint8

const (
	landed      settleResult = iota // yes
	refused                         // it did not land and never will
	fenced                          // it will not land any more; whether it had, a reading tells (P11)
	unsupported                     // the store cannot settle it
	interrupted                     // the session ended first
)

// settle drives an unclear Commit to its end, however long that takes.
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
			return 0, unsupported // asking again gets the same answer
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

// unsettled ends the session over an Acquire whose outcome nobody can find
// out: its key may be bound to the lease, so the lease must go (P17). Revoking
// closes the attempt only if every copy of the lease's Grant was answered; a
// late copy could make the lease anew, for one TTL and with nobody to renew
// it.
func (s *Session) endUnsettled(key string, err error) {
	s.end(&Error{Op: "Acquire", Key: key, Kind: ErrExpired, Err: fmt.Errorf("this store cannot settle an unclear Acquire: %w", opaque(err))})
}

// remove deletes an incarnation of an own key. Nil says that it is gone,
// whoever removed it.
func (s *Session) remove(ctx context.Context, key string, token Revision) error {
	own := CreatedAt(key, token) // P18
	_, err := s.store.Commit(ctx, Txn{If: []Cond{own}, Then: []Write{Delete(key)}})
	if errors.Is(err, ErrConflict) {
		return nil
	}
	return err
}

// removeForGood goes on, after an attempt that failed with err (nil: there was
// none), until the incarnation is known to be gone, and reports whether it is.
// What was unclear is settled first; where it cannot be, deleting again is
// enough: once the incarnation is gone no late copy can do anything.
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
