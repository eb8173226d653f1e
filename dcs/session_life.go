package dcs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// live reports whether the deadline lies ahead, by reading the clocks. The first
// goroutine to find the deadline passed makes that final (P4).
func (s *Session) live() bool {
	for {
		at := s.until.Load()
		if at == nil {
			return false
		}
		if at.Elapsed() < 0 { // P3
			return true
		}
		if s.until.CompareAndSwap(at, nil) {
			return false
		}
	}
}

// remaining returns the time until the deadline, or 0 if it has passed.
func (s *Session) remaining() time.Duration {
	at := s.until.Load()
	if at == nil || !s.live() {
		return 0
	}
	return max(-at.Elapsed(), 0)
}

// advance sets the deadline to the one that the leases in use prove. It returns false
// if the deadline has passed, and a later answer has no effect then. The deadline
// moves back if the store has shortened a lease (P3). Called under mu.
func (s *Session) advance() bool {
	at := s.migration.deadline(s.lease.until)
	for {
		old := s.until.Load()
		if old == nil || !s.live() {
			return false // P4
		}
		if s.until.CompareAndSwap(old, &at) {
			s.last = at
			if at.Before(*old) {
				s.resetTimer() // the timer is set to the old, later deadline
			}
			return s.live()
		}
	}
}

// replaceLease makes t the session's lease, to which all keys have moved, and revokes
// the old one (P20). Called under mu.
func (s *Session) replaceLease(t *leaseState) {
	old := s.lease
	s.lease = t
	if !s.advance() {
		s.expireLocked()
		return
	}
	s.failed, s.failures = nil, 0
	s.setState(Held, nil)
	s.noteChange()
	s.log.Info("lease migration completed", "from", old.ID(), "to", t.ID())
	s.renewNow()
	s.work.Go(func() { _ = s.revoke(s.life, old) })
}

// addLease records a lease that was granted to the session, so that its end revokes
// it too (P20). It returns the error of a session that has ended already.
func (s *Session) addLease(l Lease) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ownLeases[l.ID()] = true
	s.leases[l.ID()] = l
	return s.err
}

// owns reports whether this session has or had the lease.
func (s *Session) owns(lease LeaseID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ownLeases[lease]
}

// onDeadlineTimer handles the deadline timer, which may fire early.
func (s *Session) onDeadlineTimer() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live() {
		s.resetTimer()
		return
	}
	s.expireLocked()
}

// expire ends a session whose deadline has passed.
func (s *Session) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expireLocked()
}

func (s *Session) expireLocked() {
	cause := s.failed
	if cause == nil {
		cause = errors.New("no renewal was answered since the last confirmed one")
	}
	s.endLocked(&Error{Op: "Renew", Kind: ErrExpired, Err: cause})
}

// end ends the session for good with the error err. A session that has ended keeps
// its first error.
func (s *Session) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endLocked(err)
}

func (s *Session) endLocked(err error) {
	if s.err != nil {
		return
	}
	s.until.Store(nil) // P4, P6: before anything else is done
	s.err = err
	for _, h := range s.holds {
		h.finish(err)
	}
	s.holds = map[string]*Hold{}
	s.queueEvent(StateEvent{From: s.state, To: Lost, Reason: err})
	s.state = Lost
	s.noteChange()
	close(s.done)
	s.kill()
	s.timer.stop()
	level, lease := slog.LevelWarn, s.lease.ID()
	if errors.Is(err, ErrReleased) {
		level = slog.LevelInfo
	}
	s.log.Log(context.Background(), level, "session over", "lease", lease, "reason", err)
	s.store.unregister(s)
	if errors.Is(err, ErrLost) {
		delete(s.leases, s.lease.ID()) // the store has removed it already
	}
	if !errors.Is(err, ErrReleased) && !errors.Is(err, ErrClosed) && len(s.leases) > 0 {
		s.work.Go(s.cleanUp)
	}
}

// cleanUp revokes the leases of a lost session, spare leases too (P20). It first
// waits for the margin, so that a holder that is still stopping has that time.
func (s *Session) cleanUp() {
	t := time.NewTimer(Margin(s.timing.TTL))
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.close: // Close revokes
		return
	case <-s.store.life().Done():
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.timing.RetryTimeout)
	defer cancel()
	_ = s.revokeAll(ctx) // otherwise the leases expire by themselves
}

// revokeAll revokes all leases of the session at the same time, and tries again until
// ctx ends.
func (s *Session) revokeAll(ctx context.Context) error {
	s.mu.Lock()
	var left []Lease
	for _, l := range s.leases {
		left = append(left, l)
	}
	s.mu.Unlock()
	errs := make([]error, len(left))
	var wg sync.WaitGroup
	for i, l := range left {
		wg.Go(func() { errs[i] = s.revoke(ctx, l) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (s *Session) revoke(ctx context.Context, l Lease) error {
	for n := 0; ; n++ {
		if s.isAbandoned() {
			return errAbandoned
		}
		err := l.Revoke(ctx)
		if err == nil || errors.Is(err, ErrLost) {
			s.mu.Lock()
			delete(s.leases, l.ID())
			s.mu.Unlock()
			return nil
		}
		if errors.Is(err, ErrClosed) || pause(ctx, n) != nil {
			return err
		}
	}
}

// shutdown is one attempt to delete the keys and leases of a closed session.
type shutdown struct {
	done chan struct{}
	err  error // valid once done is closed
}

// Close releases every lock, revokes the lease and ends the session. Valid is false
// before anything is sent (P6). Nil reports that the lease and its keys are gone.
// Close returns by the end of ctx and within the budget. If ctx ends sooner, even
// before the call, the deletion goes on in the background for one budget.
//
// Close is idempotent and may be repeated. ErrUnavailable reports that the store has
// not confirmed the end of the lease. ErrClosed reports that the Store was closed
// first. In both cases the keys stay until the lease expires, or until a deletion
// that is still under way succeeds.
//
// A pending [Hold.Release] counts towards the budget: a Release and a Close after it
// together wait one budget for a store that does not answer, not two. After
// [Session.Abandon] Close sends nothing and returns ErrReleased.
func (s *Session) Close(ctx context.Context) error {
	run, budget := s.shutDown()
	ctx, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	select {
	case <-run.done:
	case <-ctx.Done():
		return &Error{Op: "Close", Kind: ErrUnavailable, Err: fmt.Errorf("the end of the lease is not confirmed yet: %w", ctx.Err())}
	}
	s.waitIdle(ctx)
	switch {
	case run.err == nil:
		return nil
	case errors.Is(run.err, errAbandoned):
		return withOp("Close", "", errAbandoned)
	case errors.Is(run.err, ErrClosed):
		return &Error{Op: "Close", Kind: ErrClosed, Err: errors.New("the Store was closed before the Session: its keys stay until the lease expires")}
	default:
		return &Error{Op: "Close", Kind: ErrUnavailable, Err: run.err}
	}
}

// shutDown ends the session and deletes its keys in the background. Calls share a
// shutdown that is under way. shutDown also returns how long Close may wait.
func (s *Session) shutDown() (*shutdown, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	budget := s.closeBudget()
	if s.abandoned {
		run := &shutdown{done: make(chan struct{}), err: errAbandoned}
		close(run.done)
		return run, budget
	}
	var held []*Hold
	for _, h := range s.holds {
		held = append(held, h)
	}
	switch {
	case s.closing == nil:
		close(s.close)
	case !isClosed(s.closing.done):
		return s.closing, budget
	}
	s.endLocked(&Error{Op: "Close", Kind: ErrReleased}) // P6
	run := &shutdown{done: make(chan struct{})}
	s.closing = run
	go func() {
		defer close(run.done)
		ctx, cancel := context.WithTimeout(context.Background(), s.timing.RetryTimeout)
		defer cancel()
		s.removeAll(ctx, held)
		run.err = s.revokeAll(ctx)
	}()
	return run, budget
}

// closeBudget returns how long Close may wait. A pending Release has used a part of
// that, except the minimum that every call has. Called under mu.
func (s *Session) closeBudget() time.Duration {
	spent := time.Duration(0)
	for _, r := range s.removals {
		spent = max(spent, r.since.Elapsed())
	}
	return max(s.timing.RetryTimeout-spent, min(closeSlack, s.timing.RetryTimeout))
}

// closeSlack is the shortest time for which Close waits.
const closeSlack = 100 * time.Millisecond

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// removeAll deletes the locks of a session that is being closed. Revoking the lease
// deletes them too, but later. removeAll gets half of the budget, so that the revoke
// has the rest.
func (s *Session) removeAll(ctx context.Context, held []*Hold) {
	if at, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(at)/2)
		defer cancel()
	}
	if len(held) > fewRemovals {
		s.removeParts(ctx, held)
		return
	}
	var wg sync.WaitGroup
	for _, h := range held {
		wg.Go(func() {
			if s.remove(ctx, h.key, h.token) == nil {
				h.setGone()
			}
		})
	}
	wg.Wait()
}

// fewRemovals is the largest number of locks that are deleted in a Txn each, all at
// once.
const fewRemovals = 8

// removeParts deletes many locks with few Txns, one after the other. If one lock
// cannot be deleted, the others in the same Txn are not deleted either.
func (s *Session) removeParts(ctx context.Context, held []*Hold) {
	var p txnParts
	for _, h := range held {
		p.add(h.Guard(), Delete(h.key), s.store.caps) // P18
	}
	for _, t := range p.txns {
		n := len(t.Then)
		if _, err := s.store.Commit(ctx, t); err == nil {
			for _, h := range held[:n] {
				h.setGone()
			}
		}
		held = held[n:]
	}
}

// waitIdle waits until the session's goroutines have ended or ctx ends.
func (s *Session) waitIdle(ctx context.Context) {
	idle := make(chan struct{})
	go func() {
		s.work.Wait()
		close(idle)
	}()
	select {
	case <-idle:
	case <-ctx.Done():
	}
}

// spawn runs f in a goroutine of the session, and returns false if the session has
// ended. Called under mu.
func (s *Session) spawn(f func()) bool {
	if s.err != nil {
		return false
	}
	s.work.Go(f)
	return true
}

// queueEvent queues a change of state for the observer. It is called under mu, so
// that events are in order. The callback runs in a goroutine of its own (see
// [Detached]).
func (s *Session) queueEvent(e StateEvent) {
	e.Lease = s.lease.ID()
	if callback := s.store.o.Observer.State; callback != nil {
		callback(e)
	}
}
