package dcs

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

// live reports whether the deadline lies ahead, asking the clocks now. The
// first one to find that it has passed makes that final (P4).
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

// remaining is the time until the deadline, 0 when it is over.
func (s *Session) remaining() time.Duration {
	at := s.until.Load()
	if at == nil || !s.live() {
		return 0
	}
	return max(-at.Elapsed(), 0)
}

// advance sets the deadline to what the leases in use prove, and reports false
// when the deadline has passed. An answer in hand is too late then. Called
// under mu. The deadline never moves back, because a lease's own does not (see
// confirmed) and a spare lease that ends before it is refused (see useSpare).
func (s *Session) advance() bool {
	at := s.lease.until
	if s.spare != nil && s.spare.until.Before(at) {
		at = s.spare.until // P20: the earlier one
	}
	for {
		old := s.until.Load()
		if old == nil || !s.live() {
			return false // P4
		}
		if s.until.CompareAndSwap(old, &at) {
			s.last = at // the alarm rings at the old one and is set anew then
			return true
		}
	}
}

// ring is called by the alarm, perhaps too early.
func (s *Session) ring() {
	if s.live() {
		s.alarm.set(s.Deadline())
		return
	}
	s.expire()
}

// expire ends a session whose deadline has passed.
func (s *Session) expire() {
	s.mu.Lock()
	defer s.unlock()
	s.expireLocked()
}

func (s *Session) expireLocked() {
	cause := s.failed
	if cause == nil {
		cause = errors.New("no renewal was answered since the last confirmed one")
	}
	s.endLocked(&Error{Op: "Renew", Kind: ErrExpired, Err: cause})
}

// end makes the session over for good, for the reason err; the first reason
// stays.
func (s *Session) end(err error) {
	s.mu.Lock()
	defer s.unlock()
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
	s.announce(StateEvent{From: s.state, To: Lost, Reason: err})
	s.state = Lost
	close(s.done)
	s.kill()
	s.alarm.stop()
	level, lease := slog.LevelWarn, s.lease.ID()
	if errors.Is(err, ErrReleased) {
		level = slog.LevelInfo
	}
	s.later(func() { s.log.Log(context.Background(), level, "session over", "lease", lease, "reason", err) })
	s.store.unregister(s)
	if errors.Is(err, ErrLost) {
		delete(s.leases, s.lease.ID()) // it is gone already
	}
	if !errors.Is(err, ErrReleased) && !errors.Is(err, ErrClosed) && len(s.leases) > 0 {
		s.work.Go(s.cleanUp)
	}
}

// cleanUp revokes what a lost session leaves behind, spare leases too (P20). It
// leaves the margin to whoever still has to stop.
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
	_ = s.revokeAll(ctx) // else they expire by themselves
}

// revokeAll revokes every lease the session still has, at once, trying again
// within ctx.
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

// Close gives up every lock, revokes the lease and ends the session. Valid is
// false before anything is sent (P6). It is bounded by ctx and by the budget,
// idempotent and safe to repeat; an error says that the store did not confirm
// the end, and that the keys go when the lease expires.
func (s *Session) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.timing.RetryTimeout)
	defer cancel()
	s.mu.Lock()
	var held []*Hold
	for _, h := range s.holds {
		held = append(held, h)
	}
	if !s.closing {
		s.closing = true
		close(s.close)
	}
	s.endLocked(&Error{Op: "Close", Kind: ErrReleased}) // P6
	over := s.err
	s.unlock()
	var err error
	if !errors.Is(over, ErrClosed) {
		s.removeAll(ctx, held)
		err = s.revokeAll(ctx)
	}
	s.settleDown(ctx)
	if err != nil && !errors.Is(err, ErrClosed) {
		return &Error{Op: "Close", Kind: ErrUnavailable, Err: err}
	}
	return nil
}

// removeAll deletes the locks of a session that is being closed. Revoking the
// lease does that too: it only has to be quick, so it gets half of the budget.
func (s *Session) removeAll(ctx context.Context, held []*Hold) {
	if at, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(at)/2)
		defer cancel()
	}
	var wg sync.WaitGroup
	for _, h := range held {
		wg.Go(func() {
			if s.remove(ctx, h.key, h.token) == nil {
				s.mu.Lock()
				h.gone = true
				s.mu.Unlock()
			}
		})
	}
	wg.Wait()
}

// settleDown waits for the session's goroutines, until ctx ends.
func (s *Session) settleDown(ctx context.Context) {
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

// spawn runs f as a goroutine of the session, unless that is over. Called
// under mu.
func (s *Session) spawn(f func()) bool {
	if s.err != nil {
		return false
	}
	s.work.Go(f)
	return true
}

// later tells f after mu is released, in order. Called under mu.
func (s *Session) later(f func()) { s.news = append(s.news, f) }

// announce tells the observer of a change of state. Called under mu.
func (s *Session) announce(e StateEvent) {
	e.Lease = s.lease.ID()
	if tell := s.store.o.Observer.State; tell != nil {
		s.later(func() { tell(e) })
	}
}

// unlock releases mu and tells what was left to tell. Callbacks run without mu,
// so that they may ask the session; one goroutine at a time, so that they come
// in order.
func (s *Session) unlock() {
	if s.telling {
		s.mu.Unlock()
		return
	}
	s.telling = true
	for len(s.news) > 0 {
		news := s.news
		s.news = nil
		s.mu.Unlock()
		for _, tell := range news {
			tell()
		}
		s.mu.Lock()
	}
	s.telling = false
	s.mu.Unlock()
}

// Short pauses with full jitter: a herd of sessions must not come back in
// step.
const (
	backoffBase = 50 * time.Millisecond
	backoffMax  = 2 * time.Second
)

// restFor returns the pause after n failures before this one.
func restFor(n int) time.Duration {
	limit := min(backoffBase<<min(n, 10), backoffMax)
	return time.Duration(rand.Int64N(int64(limit))) //nolint:gosec // jitter, not a secret
}
