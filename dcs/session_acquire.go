package dcs

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// TryAcquire takes the lock key with value if the key is free, and returns
// within the budget. ErrConflict reports that another session holds the lock;
// Current of the *[Error] is the holder's entry if it could be read. A lock is
// not re-entrant, so that ErrConflict is also returned if this Session holds the
// lock itself. A member key is ErrInvalid (see [CheckLockKey]). While a Release
// of the key by this Session is pending, TryAcquire returns ErrUnavailable with
// nothing sent, whereas Acquire waits for it.
//
// ErrAmbiguous reports that the lock may have been taken or may still be. The
// Session determines the outcome in the background and releases the lock if it
// was taken. Until then TryAcquire returns ErrUnavailable for that key, with
// nothing sent. If the store cannot settle such an attempt (it has no [Settler]),
// the Session ends.
//
// The lock is taken only if every condition of also holds at that moment, in the
// same Txn. If one does not, TryAcquire returns ErrConflict, and ConflictKey of
// the *[Error] is the key of that condition. It is the lock's key if the lock is
// held. An acquisition that depends on an earlier reading must state the
// condition here, because a change in between would otherwise go unnoticed.
//
// ctx bounds this call only, not the life of the Hold.
func (s *Session) TryAcquire(ctx context.Context, key string, value []byte, also ...Cond) (*Hold, error) {
	const op = "TryAcquire"
	if err := CheckLockKey(key); err != nil {
		return nil, withOp(op, key, err)
	}
	call, cancel := s.call(ctx)
	defer cancel()
	s.mu.Lock()
	err := s.checkFree(key)
	var c *claim
	if err == nil {
		if c, _ = s.tryClaimLock(key); c == nil {
			err = &Error{Kind: ErrUnavailable, Err: errBusy}
		}
	}
	s.mu.Unlock()
	if err != nil {
		return nil, s.failure(op, key, err)
	}
	h, err := s.attempt(call, c, value, also)
	if err != nil {
		return nil, s.failure(op, key, err)
	}
	return h, nil
}

// Acquire waits until the lock key is free and takes it. It waits without polling
// and for as long as ctx allows. When ctx ends while the store answers, Acquire
// returns the bare error of ctx. If the store is silent for RetryTimeout, it
// returns ErrUnavailable. An earlier write of this Session that is not settled yet can
// double that time. If Acquire is cut short while its write is under way, the
// error matches ErrAmbiguous too, and the lock is released if it was taken. For
// everything else see [Session.TryAcquire].
//
// Acquire waits for the lock only. It checks the conditions of also at the call
// and whenever the lock becomes free, and returns ErrConflict at once if one does
// not hold.
func (s *Session) Acquire(ctx context.Context, key string, value []byte, also ...Cond) (*Hold, error) {
	if err := CheckLockKey(key); err != nil {
		return nil, withOp("Acquire", key, err)
	}
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := s.acquireOnce(ctx, key, value, also)
		if err == nil {
			return h, nil
		}
		var e *Error
		if !errors.Is(err, ErrConflict) || !errors.As(err, &e) || e.ConflictKey != "" && e.ConflictKey != key {
			return nil, s.waitFailure(ctx, key, err)
		}
		s.mu.Lock()
		own := s.checkFree(key)
		s.mu.Unlock()
		if own != nil {
			return nil, s.failure("Acquire", key, own)
		}
		if err := s.awaitAbsent(ctx, key, e.Current); err != nil {
			return nil, s.waitFailure(ctx, key, err)
		}
	}
}

// waitFailure returns the error of an Acquire that failed with err. It is the
// bare error of ctx if that has ended and no write is ambiguous.
func (s *Session) waitFailure(ctx context.Context, key string, err error) error {
	if s.Err() == nil && ctx.Err() != nil && !errors.Is(err, ErrAmbiguous) {
		return ctx.Err()
	}
	return s.failure("Acquire", key, err)
}

// checkFree returns an error if the session is over or holds key itself. Called
// under mu.
func (s *Session) checkFree(key string) error {
	if s.err != nil {
		return s.err
	}
	if h := s.holds[key]; h != nil {
		return &Error{Kind: ErrConflict, ConflictKey: key, Err: fmt.Errorf("this Session already holds the lock, with token %d: a lock is not re-entrant", h.token)}
	}
	return nil
}

// acquireOnce makes one attempt of Acquire, with one budget. It first waits until
// an earlier attempt is settled (P17).
func (s *Session) acquireOnce(ctx context.Context, key string, value []byte, also []Cond) (*Hold, error) {
	c, err := s.awaitLock(ctx, key)
	if err != nil {
		return nil, err
	}
	ctx, cancel := s.call(ctx)
	defer cancel()
	s.mu.Lock()
	err = s.checkFree(key)
	s.mu.Unlock()
	if err != nil {
		s.unclaim(c)
		return nil, err
	}
	return s.attempt(ctx, c, value, also)
}

// awaitLock waits for the claim on a lock's key for as long as the store answers. No
// budget bounds the wait: a step that lost its answer shortly before, for example of a
// move to a fresh lease (P20), would use up the budget of this call too.
func (s *Session) awaitLock(ctx context.Context, key string) (*claim, error) {
	s.mu.Lock()
	c, _ := s.tryClaimLock(key)
	s.mu.Unlock()
	if c != nil {
		return c, nil
	}
	wait, cancel := context.WithCancel(ctx)
	defer cancel()
	silent := make(chan error, 1)
	go func() { // ends with wait
		defer cancel()
		silent <- s.follow(wait, key, s.store.newest(), func(Snapshot) bool { return false })
	}()
	c, err := s.awaitClaim(wait, key, s.tryClaimLock)
	cancel()
	if end := <-silent; err != nil && ctx.Err() == nil && s.Err() == nil {
		return nil, end
	}
	return c, err
}

// awaitAbsent waits until key does not exist. current is the entry last seen, or
// nil.
func (s *Session) awaitAbsent(ctx context.Context, key string, current *Entry) error {
	var since Revision
	if current != nil {
		since = current.Modified
	}
	return s.follow(ctx, key, since, func(snap Snapshot) bool {
		_, found := snap.Get(key)
		return !found
	})
}

// follow reads the tree of key again after each change, until a snapshot is the wanted
// one. It returns an error when the store is silent, and when ctx or the session ends.
func (s *Session) follow(ctx context.Context, key string, since Revision, wanted func(Snapshot) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()
	for {
		snap, err := s.store.Wait(ctx, key, since)
		if err != nil {
			return err
		}
		if wanted(snap) {
			return nil
		}
		since = snap.Revision
	}
}

// attempt tries once to create the claimed key. It ends the claim, unless the
// outcome is ambiguous. The settling in the background ends the claim then. The
// lock's own condition is the last one, so that a conflict names a condition of
// also where both fail.
func (s *Session) attempt(ctx context.Context, c *claim, value []byte, also []Cond) (*Hold, error) {
	conds := append(slices.Clone(also), Absent(c.key))
	rev, err := s.store.Commit(ctx, Txn{
		If:   conds,
		Then: []Write{PutLeased(c.key, value, c.lease.ID())},
	})
	if isFenced(err) {
		rev, err = s.readBack(ctx, c, err)
	}
	switch {
	case err == nil:
		h, err := s.adopt(c, rev)
		s.unclaim(c)
		return h, err
	case errors.Is(err, ErrAmbiguous):
		s.settleAcquire(c, err)
		return nil, err
	case errors.Is(err, ErrConflict):
		err = s.nameConflict(ctx, conds, err)
	case errors.Is(err, ErrLost):
		s.leaseLost(c.lease, err) // P14
	}
	s.unclaim(c)
	return nil, err
}

func isFenced(err error) bool {
	var e *Error
	return errors.Is(err, ErrAmbiguous) && errors.As(err, &e) && e.Fenced
}

// readBack determines whether an attempt that cannot be applied any more has been
// applied (P11). The key is the attempt's own if it is bound to the attempt's
// lease and was created later than every revision that the Store had seen before
// the attempt was sent. An older incarnation under the same lease belongs to an
// earlier Hold, whose Release may still be under way. readBack returns err itself
// if the key cannot be read.
func (s *Session) readBack(ctx context.Context, c *claim, err error) (Revision, error) {
	e, rerr := s.store.Get(ctx, c.key)
	switch {
	case rerr == nil && e.Lease == c.lease.ID() && e.Created > c.newest:
		return e.Created, nil
	case rerr == nil:
		return 0, &Error{Kind: ErrConflict, ConflictKey: c.key, Current: &e}
	case errors.Is(rerr, ErrNotFound):
		return 0, &Error{Kind: ErrUnavailable, Err: fmt.Errorf("the lock was not taken: %w", opaque(err))}
	default:
		return 0, err
	}
}

// adopt returns the Hold of an attempt that succeeded. It belongs to the Session
// and to the lease that the attempt carried (P16). If either has ended, adopt
// returns ErrExpired, and the key ends with that lease.
func (s *Session) adopt(c *claim, token Revision) (*Hold, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.live() {
		s.expireLocked()
	}
	if s.err != nil || c.lease != s.lease {
		return nil, &Error{Kind: ErrExpired, Err: errors.New("the session ended before the acquired lock could be returned")}
	}
	h := &Hold{s: s, key: c.key, token: token, done: make(chan struct{}), removed: make(chan struct{})}
	s.holds[c.key] = h
	s.queueEvent(StateEvent{Key: h.key, Token: token, From: Lost, To: s.state})
	s.log.Info("lock acquired", "key", h.key, "token", token, "lease", c.lease.ID())
	return h, nil
}

// nameConflict adds to a conflict the key whose condition failed and the entry
// found, where the store did not report them. If every condition holds by now,
// ConflictKey stays empty.
func (s *Session) nameConflict(ctx context.Context, conds []Cond, err error) error {
	var e *Error
	if !errors.As(err, &e) {
		return err
	}
	named := *e
	if conditionFailed(conds, named.ConflictKey, named.Current) {
		return err
	}
	named.ConflictKey = ""
	if cur := named.Current; cur != nil && conditionFailed(conds, cur.Key, cur) {
		named.ConflictKey = cur.Key
		return &named
	}
	for _, c := range conds {
		var found *Entry
		if cur, rerr := s.store.Get(ctx, c.Key); rerr == nil {
			found = &cur
		} else if !errors.Is(rerr, ErrNotFound) {
			return &named
		}
		if !c.Holds(found) {
			named.ConflictKey, named.Current = c.Key, found
			return &named
		}
	}
	return &named
}

// conditionFailed reports whether conds has a condition on key that does not hold
// for the entry found.
func conditionFailed(conds []Cond, key string, found *Entry) bool {
	i := slices.IndexFunc(conds, func(c Cond) bool { return c.Key == key })
	return i >= 0 && !conds[i].Holds(found)
}

// leaseLost ends the session if a Commit bound to t was refused because t is
// gone (P14).
func (s *Session) leaseLost(t *leaseState, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t == s.lease {
		s.endLocked(&Error{Op: "Commit", Kind: ErrLost, Err: err})
	}
}

// settleAcquire determines the outcome of an ambiguous Acquire in the background.
// A lock that was taken after all is released, because its Acquire has returned
// an error (P16).
func (s *Session) settleAcquire(c *claim, err error) {
	var e *Error
	if errors.As(err, &e) && !e.Fenced {
		if _, can := s.store.b.(Settler); !can || e.Attempt == nil {
			s.endUnsettled(c.key, err)
			s.unclaim(c)
			return
		}
	}
	s.handOver(c, func() {
		rev, how := s.settle(err)
		if how == fenced {
			rev, how = s.awaitReadBack(c, err)
		}
		switch how {
		case landed:
			s.log.Info("acquire completed after its call had failed; releasing the lock", "key", c.key, "token", rev)
			s.removeForGood(c.key, rev, nil)
		case unsupported:
			s.endUnsettled(c.key, err)
		}
	})
}

// awaitReadBack repeats readBack until it has an outcome or the session ends.
func (s *Session) awaitReadBack(c *claim, err error) (Revision, settleResult) {
	for n := 0; ; n++ {
		ctx, cancel := s.call(s.life)
		rev, rerr := s.readBack(ctx, c, err)
		cancel()
		switch {
		case rerr == nil:
			return rev, landed
		case !errors.Is(rerr, ErrAmbiguous):
			return 0, refused
		case pause(s.life, n) != nil:
			return 0, interrupted
		}
	}
}
