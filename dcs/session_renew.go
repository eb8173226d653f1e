package dcs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// renew renews the lease until the session ends. It runs in one goroutine.
func (s *Session) renew() {
	s.mu.Lock()
	r := s.lease.granted
	s.mu.Unlock()
	t := time.NewTimer(max(s.timing.RenewEvery(r.TTL)-r.From.Elapsed(), 0))
	defer t.Stop()
	for {
		select {
		case <-s.life.Done():
			return
		case <-s.wake:
		case <-t.C:
		}
		sent := Now()
		ttl, failures := s.round()
		if failures > 0 {
			t.Reset(sessionBackoff.delay(failures - 1))
		} else {
			t.Reset(max(s.timing.RenewEvery(ttl)-sent.Elapsed(), 0))
		}
	}
}

// checkedKey is a key that a renewal reads and checks, with the Hold or the
// publication that it belonged to when the renewal was sent. The answer proves
// nothing about others (P5).
type checkedKey struct {
	key  string
	hold *Hold
	pub  *publication
}

// round makes one renewal of the lease, and during a move (P20) of the spare lease
// too. It returns the TTL in force and the number of failures in a row.
func (s *Session) round() (ttl time.Duration, failures int) {
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return 0, 1
	}
	waiting := s.confirms
	s.confirms = nil
	leases := []*leaseState{s.lease}
	if spare := s.migration.spare; spare != nil {
		leases = append(leases, spare) // P20
	}
	checked, gate := s.keysToCheck(), s.gate
	s.mu.Unlock()

	answers := s.send(leases, checked, gate)

	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.applyAnswers(leases, checked, answers)
	if s.err == nil && s.lease != leases[0] {
		// The keys moved meanwhile: answer from a renewal of the new lease.
		s.confirms = append(waiting, s.confirms...)
		waiting = nil
		s.renewNow()
	}
	for _, w := range waiting {
		w <- err
	}
	return s.lease.granted.TTL, s.failures
}

// keysToCheck lists the keys that the session holds and has published. Called under
// mu.
func (s *Session) keysToCheck() []checkedKey {
	var checked []checkedKey
	for key, h := range s.holds {
		checked = append(checked, checkedKey{key: key, hold: h})
	}
	return s.publisher.appendChecked(checked)
}

// errGated is the cause of a renewal that SessionOptions.Gate refused.
var errGated = errors.New("not sent")

// renewAnswer is the answer to the renewal of one lease.
type renewAnswer struct {
	Renewal
	err  error
	took time.Duration
}

// send renews each of leases in a call of its own, so that a call that hangs does not
// delay the other.
func (s *Session) send(leases []*leaseState, checked []checkedKey, gate func() error) []renewAnswer {
	keys := make([]string, len(checked))
	for i, a := range checked {
		keys[i] = a.key
	}
	slices.Sort(keys)
	answers := make([]renewAnswer, len(leases))
	if gate != nil {
		if err := gate(); err != nil {
			for i := range answers {
				answers[i].err = &Error{Op: "Renew", Kind: ErrUnavailable, Err: fmt.Errorf("%w: %w", errGated, err)}
			}
			return answers
		}
	}
	ctx, cancel := context.WithTimeout(s.life, s.renewTime())
	defer cancel()
	var wg sync.WaitGroup
	one := func(i int) {
		start := Now()
		answers[i].Renewal, answers[i].err = leases[i].Renew(ctx, keys...)
		answers[i].took = start.Elapsed()
		if len(leases) > 1 {
			s.applyEarly(leases[i], checked, answers[i])
		}
	}
	for i := range leases[1:] {
		wg.Go(func() { one(i + 1) })
	}
	one(0)
	wg.Wait()
	return answers
}

// applyEarly applies a confirmed renewal of one lease at once. The renewal of the
// other lease may hang until the deadline and must not end the session by that.
// applyAnswers applies it again, which changes nothing.
func (s *Session) applyEarly(t *leaseState, checked []checkedKey, a renewAnswer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.err != nil {
		return
	}
	s.applyRenewal(t, checked, a.Renewal)
	s.advance() // P20: to the earlier deadline; applyAnswers ends the session if that has passed
}

// attemptTime returns how long one attempt may take. No attempt outlives the
// deadline.
func (s *Session) attemptTime() time.Duration {
	return min(s.timing.RetryTimeout, s.remaining())
}

// renewTime returns how long one renewal may take. A renewal that would end with the
// deadline leaves half a budget, so that a move can follow it if the store can move
// keys (P20). The renewal after a move is such a renewal, because it is sent at once.
func (s *Session) renewTime() time.Duration {
	budget, left := s.timing.RetryTimeout, s.remaining()
	if s.store.caps.Rebind && left > budget {
		return min(budget, left-budget/2)
	}
	return min(budget, left)
}

// applyAnswers applies the answers of one round. It returns nil if every lease was
// confirmed and the deadline lies ahead. Called under mu.
func (s *Session) applyAnswers(leases []*leaseState, checked []checkedKey, answers []renewAnswer) error {
	var failed error
	for i, a := range answers {
		t := leases[i]
		if t != s.lease && t != s.migration.spare {
			continue // the lease was dropped while the answer was on its way
		}
		switch {
		case a.err == nil:
			s.applyRenewal(t, checked, a.Renewal)
		case errors.Is(a.err, ErrLost) && t == s.lease:
			s.endLocked(&Error{Op: "Renew", Kind: ErrLost, Err: a.err})
		case errors.Is(a.err, ErrLost):
			// P20: the keys may be bound to the spare lease. That is unknown until
			// the move is settled.
			s.migration.spareLostLocked(a.err)
		default:
			failed = a.err
		}
	}
	if s.err == nil && !s.advance() {
		if failed != nil {
			s.failed = failed
		}
		s.expireLocked()
	}
	for i, a := range answers {
		s.queueRenewal(leases[i], a)
	}
	if s.err != nil {
		return s.err
	}
	s.noteOutcome(failed)
	s.noteChange()
	return failed
}

// opaque returns an error with err's text that matches no sentinel.
func opaque(err error) error { return errors.New(err.Error()) }

// update applies a confirmed renewal of t (P3). A renewal that was sent earlier than
// the last one changes nothing. One that was sent later always sets the deadline,
// also if the store has shortened the lease. Of two renewals that count from the
// same instant the shorter one applies. update reports whether the TTL is shorter than
// before.
func (t *leaseState) update(r Renewal) (shorter bool) {
	at := Deadline(r.From, r.TTL)
	if r.From.Before(t.granted.From) || !t.granted.From.Before(r.From) && !at.Before(t.until) {
		return false
	}
	shorter = r.TTL < t.granted.TTL
	t.until, t.granted = at, r
	return shorter
}

// applyRenewal applies a confirmed renewal of t and the entries that it read. Called
// under mu.
func (s *Session) applyRenewal(t *leaseState, checked []checkedKey, r Renewal) {
	before := t.granted.TTL
	if t.update(r) {
		s.log.Warn("the store shortened the lease", "lease", t.ID(), "ttl", r.TTL, "ttl_before", before, "timing_fits", s.timing.CheckGrant(r.TTL) == nil)
	}
	s.checkKeys(checked, r)
}

// checkKeys checks Holds and published keys against the entries that a renewal read.
// It does nothing after the end of the session, which deletes its keys itself. Called
// under mu.
func (s *Session) checkKeys(checked []checkedKey, r Renewal) {
	if s.err != nil {
		return
	}
	for _, a := range checked {
		e, found := r.Entry(a.key)
		switch {
		case a.hold != nil: // P5: loseHold ignores a Hold that has ended
			if !found || e.Created != a.hold.token || !s.ownLeases[e.Lease] {
				s.loseHold(a.hold, foreignKeyError(a.key, e, found))
			}
		default:
			s.publisher.check(a.pub, e, found)
		}
	}
}

// foreignKeyError describes the entry found in place of an own key.
func foreignKeyError(key string, e Entry, found bool) error {
	if !found {
		return fmt.Errorf("%q was deleted by another client", key)
	}
	return fmt.Errorf("%q was created at revision %d and is bound to lease %q now", key, e.Created, e.Lease)
}

// noteOutcome records the outcome of a round, and starts a move if renewals keep
// failing. Called under mu.
func (s *Session) noteOutcome(failed error) {
	s.failed = failed
	if failed == nil {
		s.failures = 0
		s.setState(Held, nil)
		if s.migration.split {
			s.migration.consider() // continue with the remaining keys
		}
		return
	}
	s.failures++
	s.setState(Unknown, failed)
	if !errors.Is(failed, errGated) {
		s.migration.consider()
	}
}

func (s *Session) setState(to State, reason error) {
	if s.state == to {
		return
	}
	from := s.state
	s.state = to
	s.queueEvent(StateEvent{From: from, To: to, Reason: reason})
	for _, h := range s.holds {
		s.queueEvent(StateEvent{Key: h.key, Token: h.token, From: from, To: to, Reason: reason})
	}
	lease, left := s.lease.ID(), max(-s.last.Elapsed(), 0)
	if to == Held {
		s.log.Info("lease is renewed again", "lease", lease, "remaining", left)
	} else {
		s.log.Warn("lease could not be renewed: counting down", "lease", lease, "remaining", left, "reason", reason)
	}
}

func (s *Session) queueRenewal(t *leaseState, a renewAnswer) {
	callback := s.store.o.Observer.Renewal
	if callback == nil {
		return
	}
	e := RenewalEvent{Lease: t.ID(), Duration: a.took, Deadline: s.last, Err: a.err}
	if a.err == nil {
		e.Renewal = a.Renewal
	}
	callback(e)
}

// renewNow requests a renewal now.
func (s *Session) renewNow() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// confirm waits for a renewal that is sent after this call (P5). A renewal that is on
// its way already does not count. If ctx has ended, none is sent.
func (s *Session) confirm(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return &Error{Kind: ErrUnavailable, Err: fmt.Errorf("no renewal was sent: %w", err)}
	}
	answer := make(chan error, 1)
	s.mu.Lock()
	s.confirms = append(s.confirms, answer)
	s.mu.Unlock()
	s.renewNow()
	select {
	case err := <-answer:
		return err
	case <-s.done:
		return s.Err()
	case <-ctx.Done():
		return &Error{Kind: ErrUnavailable, Err: fmt.Errorf("no renewal was confirmed: %w", ctx.Err())}
	}
}
