package dcs

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"time"
)

// Options configure a Store, whatever its backend.
type Options struct {
	// Timing defaults to DefaultTiming. Its RetryTimeout is the budget of
	// every call.
	Timing Timing
	// Logger receives what an operator needs to know; nil means silent.
	Logger *slog.Logger
	// Observer is told of calls, renewals, switches and state changes.
	Observer Observer
}

// Store is what users hold: a Backend, and what none of them may forget.
type Store struct {
	b Backend
	o Options
}

var errStub = errors.New("not built yet")

// New makes a Store around a Backend.
func New(b Backend, o Options) (*Store, error) { return &Store{b: b, o: o}, errStub }

// Open opens the store that rawURL names.
func Open(ctx context.Context, rawURL string, o Options) (*Store, error) { return nil, errStub }

// Get returns one entry.
func (s *Store) Get(ctx context.Context, key string) (Entry, error) { return Entry{}, errStub }

// Snapshot returns the tree under prefix.
func (s *Store) Snapshot(ctx context.Context, prefix string) (Snapshot, error) {
	return Snapshot{}, errStub
}

// Wait blocks until the tree under prefix moved past since.
func (s *Store) Wait(ctx context.Context, prefix string, since Revision) (Snapshot, error) {
	return Snapshot{}, errStub
}

// Watch yields the tree under prefix, then every newer one, until the
// context or the loop ends it.
func (s *Store) Watch(ctx context.Context, prefix string) iter.Seq2[Snapshot, error] { return nil }

// Commit applies t.
func (s *Store) Commit(ctx context.Context, t Txn) (Revision, error) { return 0, errStub }

// Settle settles an ErrAmbiguous Commit (see Settler); errors.ErrUnsupported where the backend can not.
func (s *Store) Settle(ctx context.Context, e *Error) (Revision, error) { return 0, errStub }

// Grant makes a lease.
func (s *Store) Grant(ctx context.Context, ttl time.Duration) (Lease, Renewal, error) {
	return nil, Renewal{}, errStub
}

// Caps returns what the store can do.
func (s *Store) Caps() Caps { return s.b.Caps() }

// Close closes the store and ends its sessions' leases' renewals.
func (s *Store) Close() error { return errStub }

// Unwrap returns the Backend.
func (s *Store) Unwrap() Backend { return s.b }

// Timing returns the timing in force, defaults filled in.
func (s *Store) Timing() Timing { return s.o.Timing }
