package dcs

// SessionStatus is the state of a Session at one moment, as the Session knows it.
type SessionStatus struct {
	State State
	// Lease is the lease that the session renews.
	Lease LeaseID
	// Deadline is the instant at which the session ends unless a renewal is
	// confirmed before. If the session has ended, it is the last deadline.
	Deadline Instant
	// Failures is the number of renewals that have failed since the last confirmed
	// one. RenewalErr is the error of the latest failed renewal. It is nil after a
	// confirmed renewal.
	Failures   int
	RenewalErr error
	// Displaced are the published keys that another session has taken over or
	// that were deleted, sorted. See [Session.Publish].
	Displaced []string
	// Err is the reason why the session ended, or nil. See [Session.Err].
	Err error
}

// Status returns the session's status and a channel that is closed at its next
// change: after each renewal, when a published key was taken over, and when the
// session ends. Nothing changes after that, and the channel stays open.
//
// A caller that waits for the channel and then calls Status again never misses the
// latest status, and may miss those between. Unlike an [Observer], which belongs to
// the Store, Status may be used by any number of callers, and it drops no event.
func (s *Session) Status() (SessionStatus, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil && !s.live() {
		s.expireLocked()
	}
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	st := SessionStatus{
		State: s.state, Lease: s.lease.ID(), Deadline: s.last,
		Failures: s.failures, RenewalErr: s.failed, Err: s.err,
		Displaced: s.publisher.displacedKeys(),
	}
	return st, s.changed
}

// noteChange closes the channel that Status has returned. Called under mu.
func (s *Session) noteChange() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}
