package dcs

import (
	"context"
	"log/slog"
	"time"
)

// SessionOptions configure a Session.
type SessionOptions struct {
	// Timing is this session's own; zero means the Store's.
	Timing Timing
	// Logger defaults to the Store's.
	Logger *slog.Logger
}

// Session owns one lease and renews it.
type Session struct{}

// NewSession grants a lease and starts to renew it.
func (s *Store) NewSession(ctx context.Context, o SessionOptions) (*Session, error) {
	return nil, errStub
}

// Acquire waits for the lock and takes it.
func (s *Session) Acquire(ctx context.Context, key string, value []byte) (*Hold, error) {
	return nil, errStub
}

// TryAcquire takes the lock or says who holds it.
func (s *Session) TryAcquire(ctx context.Context, key string, value []byte) (*Hold, error) {
	return nil, errStub
}

// Publish writes a member key bound to the lease.
func (s *Session) Publish(ctx context.Context, key string, value []byte) (displaced LeaseID, err error) {
	return "", errStub
}

// Lease returns the id of the lease that the session renews now.
func (s *Session) Lease() LeaseID { return "" }

// Granted returns the last confirmed Renewal.
func (s *Session) Granted() Renewal { return Renewal{} }

// Deadline returns the instant at which the session is lost without a further renewal.
func (s *Session) Deadline() Instant { return Instant{} }

// State returns the session's state.
func (s *Session) State() State { return Lost }

// Done is closed when the session is over.
func (s *Session) Done() <-chan struct{} { return nil }

// Err says why it is over; nil before.
func (s *Session) Err() error { return errStub }

// Close releases, revokes and ends the session.
func (s *Session) Close(ctx context.Context) error { return errStub }

// Hold is a lock that is held.
type Hold struct{}

// Key returns the lock's key.
func (h *Hold) Key() string { return "" }

// Token returns the fencing token.
func (h *Hold) Token() Revision { return 0 }

// Valid asks the clocks now.
func (h *Hold) Valid() bool { return false }

// Remaining returns the time until the deadline, 0 when not valid.
func (h *Hold) Remaining() time.Duration { return 0 }

// Deadline returns the instant at which the Hold stops being Valid.
func (h *Hold) Deadline() Instant { return Instant{} }

// Done is closed when the hold is over.
func (h *Hold) Done() <-chan struct{} { return nil }

// Err says why; nil before.
func (h *Hold) Err() error { return errStub }

// Confirm proves the hold with a renewal sent after the call (P5).
func (h *Hold) Confirm(ctx context.Context) error { return errStub }

// Guard is a condition for Commit: a store-enforced fenced write.
func (h *Hold) Guard() Cond { return Cond{} }

// Update rewrites the lock's value under its own incarnation and lease.
func (h *Hold) Update(ctx context.Context, value []byte) error { return errStub }

// Release deletes its own incarnation.
func (h *Hold) Release(ctx context.Context) error { return errStub }
