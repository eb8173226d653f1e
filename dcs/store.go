package dcs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"reflect"
	"sync"
	"sync/atomic"
	"time"
)

// Options configure a Store, whatever its backend.
type Options struct {
	// Timing defaults to [DefaultTiming]; see [Timing.WithDefaults]. Its
	// RetryTimeout is the budget of every call.
	Timing Timing
	// Logger receives what an operator needs to know; nil means silent. A
	// handler that blocks delays nothing but the log; see [Detached].
	Logger *slog.Logger
	// Observer receives calls, renewals, switches and state changes.
	Observer Observer
}

var discard = slog.New(slog.DiscardHandler)

// Store is what users hold: a [Backend] and, done once around it, what none of
// them may forget. Every call of a Store
//
//   - checks its arguments against the grammar and the store's limits before
//     anything is sent ([ErrInvalid]);
//   - answers at once, with nothing sent, when the Store is closed or the
//     context is finished;
//   - has one budget: the smaller of the context's deadline and RetryTimeout
//     (Wait and Watch apart, which take as long as their context);
//   - fails with one *[Error] whose kind is one of the sentinels. What the
//     backend did not classify is "cannot tell": [ErrAmbiguous] for Commit and
//     Grant, [ErrUnavailable] for everything else.
//
// All methods are safe for concurrent use.
type Store struct {
	b    Backend
	o    Options
	log  *slog.Logger
	name string
	caps Caps

	health health
	open   context.Context //nolint:containedctx // the Store's own life: it ends when Close begins
	shut   context.CancelFunc

	mu         sync.Mutex
	ends       map[ender]struct{} // what lives on this Store and ends with it; nil once closed
	background sync.WaitGroup     // goroutines that Close waits for

	// seen is the largest revision that an answer has named. A Commit that is
	// sent later gets a larger one (P11).
	seen atomic.Uint64

	closed    atomic.Bool
	closeOnce sync.Once
	closeErr  error
}

// New makes a Store around b, which it owns from then on. It does no I/O. A
// Timing that does not fit the store is an [ErrInvalid] that lists every fault
// with a setting that works; b is then left open and the caller's.
func New(b Backend, o Options) (*Store, error) {
	if b == nil {
		return nil, &Error{Op: "New", Kind: ErrInvalid, Err: errors.New("the Backend is nil: pass one, or use Open")}
	}
	s := &Store{b: b, o: o, name: backendName(b), caps: b.Caps(), ends: map[ender]struct{}{}}
	s.open, s.shut = context.WithCancel(context.Background())
	s.o.Timing = o.Timing.WithDefaults()
	s.o.Logger, s.o.Observer = Detached(o.Logger, o.Observer)
	s.log = s.o.Logger.With("backend", s.name)
	faults := append(s.caps.faults(), o.Timing.faults(s.caps)...)
	if len(faults) > 0 {
		return nil, &Error{Backend: s.name, Op: "New", Kind: ErrInvalid, Err: join(faults)}
	}
	for _, w := range o.Timing.Warnings(s.caps) {
		s.log.Warn("timing: " + w)
	}
	return s, nil
}

// backendName is what errors, logs and events call b.
func backendName(b Backend) string {
	if n, ok := b.(interface{ Name() string }); ok {
		return n.Name()
	}
	t := reflect.TypeOf(b)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return path.Base(t.PkgPath())
}

// faults finds Caps that no store can mean.
func (c Caps) faults() []error {
	var out []error
	if c.MinTTL < 0 || c.MaxTTL < 0 || (c.MaxTTL > 0 && c.MinTTL > c.MaxTTL) {
		out = append(out, fmt.Errorf("the backend's Caps are wrong: MinTTL %v, MaxTTL %v: MinTTL is between 0 and MaxTTL, and a MaxTTL of 0 is no limit", c.MinTTL, c.MaxTTL))
	}
	if c.MaxValue < 0 || c.MaxTxnOps < 0 || c.MaxTxnBytes < 0 {
		out = append(out, fmt.Errorf("the backend's Caps are wrong: MaxValue %d, MaxTxnOps %d, MaxTxnBytes %d: none is negative, and 0 is no limit", c.MaxValue, c.MaxTxnOps, c.MaxTxnBytes))
	}
	return out
}

// Get returns the entry of key as it is at some moment between call and
// return, or [ErrNotFound].
func (s *Store) Get(ctx context.Context, key string) (Entry, error) {
	if err := checkKey(key); err != nil {
		return Entry{}, s.invalid(opGet, key, err)
	}
	ctx, c, err := s.begin(ctx, opGet, key)
	if err != nil {
		return Entry{}, err
	}
	e, err := s.b.Get(ctx, key)
	if err = c.finish(ctx, err); err != nil {
		return Entry{}, err
	}
	s.noteRevision(e.Modified)
	return e, nil
}

// Snapshot returns the key prefix itself and everything below it, as it is at
// one moment between call and return. The empty prefix is the whole tree.
func (s *Store) Snapshot(ctx context.Context, prefix string) (Snapshot, error) {
	if err := checkPrefix(prefix); err != nil {
		return Snapshot{}, s.invalid(opSnapshot, prefix, err)
	}
	ctx, c, err := s.begin(ctx, opSnapshot, prefix)
	if err != nil {
		return Snapshot{}, err
	}
	snap, err := s.b.Snapshot(ctx, prefix)
	if err = c.finish(ctx, err); err != nil {
		return Snapshot{}, err
	}
	s.noteRevision(snap.Revision)
	return snap, nil
}

// Wait blocks until the tree under prefix moved past since, the Revision of an
// earlier Snapshot, and returns a newer one. Steps between may be skipped, the
// last state never is. Since 0 it returns a tree at once, even where no key
// exists. A Wait may lag behind the writes of other clients, which a Snapshot
// does not, and never behind those of its own. It has no budget: ctx ends it,
// with the context's bare error, while the store answers; a store that is silent
// for RetryTimeout ends it with [ErrUnavailable]. Calling it again with the same
// since is safe.
func (s *Store) Wait(ctx context.Context, prefix string, since Revision) (Snapshot, error) {
	if err := checkPrefix(prefix); err != nil {
		return Snapshot{}, s.invalid(opWait, prefix, err)
	}
	ctx, c, err := s.begin(ctx, opWait, prefix)
	if err != nil {
		return Snapshot{}, err
	}
	snap, err := s.b.Wait(ctx, prefix, since)
	if err = c.finish(ctx, err); err != nil {
		return Snapshot{}, err
	}
	s.noteRevision(snap.Revision)
	return snap, nil
}

// Commit applies t, all of it and at one revision, if all its conditions hold,
// and returns that revision. [ErrConflict] and [ErrLost] say that nothing was
// written; [ErrAmbiguous] that it may have been, or may still be: see
// [Store.Settle].
func (s *Store) Commit(ctx context.Context, t Txn) (Revision, error) {
	key := t.firstKey()
	if faults := t.limitFaults(t.faults(nil), s.caps); len(faults) > 0 {
		return 0, s.invalid(opCommit, key, join(faults))
	}
	ctx, c, err := s.begin(ctx, opCommit, key)
	if err != nil {
		return 0, err
	}
	rev, err := s.b.Commit(ctx, t)
	if err = c.finish(ctx, err); err != nil {
		return 0, err
	}
	s.noteRevision(rev)
	return rev, nil
}

// Settle settles a Commit that failed with [ErrAmbiguous], given its error:
// with the revision and nil it had been written; with [ErrConflict] or
// [ErrLost] it was not and never will be; with an *[Error] of kind
// ErrAmbiguous it is still open, or, when that has Fenced set, it cannot land
// any more and nobody can tell whether it had. Any other error settled
// nothing and Settle may be called again with what it returned.
//
// A backend that cannot settle, and an error with nothing to settle, answer
// with an ErrAmbiguous that matches [errors.ErrUnsupported] too.
func (s *Store) Settle(ctx context.Context, e *Error) (Revision, error) {
	if e == nil || !errors.Is(e, ErrAmbiguous) {
		return 0, s.invalid(opSettle, "", errors.New("there is nothing to settle: pass the *Error of kind ErrAmbiguous that Commit returned"))
	}
	if e.Fenced {
		return 0, e
	}
	b, ok := s.b.(Settler)
	if !ok || e.Attempt == nil {
		err := fmt.Errorf("this outcome cannot be settled: %w", errors.ErrUnsupported)
		return 0, &Error{Backend: s.name, Op: opSettle.name, Key: e.Key, Kind: ErrAmbiguous, Attempt: e.Attempt, Err: err}
	}
	ctx, c, err := s.begin(ctx, opSettle, e.Key)
	if err != nil {
		return 0, keepAttempt(err, e)
	}
	rev, err := b.Settle(ctx, e)
	if err = c.finish(ctx, err); err != nil {
		return 0, keepAttempt(err, e)
	}
	s.noteRevision(rev)
	return rev, nil
}

// keepAttempt sees to it that what settled nothing can be settled later.
func keepAttempt(err error, from *Error) error {
	var e *Error
	if errors.As(err, &e) && e.Attempt == nil && !e.Fenced && !isNo(e.Kind) {
		e.Attempt = from.Attempt
	}
	return err
}

// Grant makes a lease of about ttl, which the store may move into
// [Caps.MinTTL, Caps.MaxTTL]; the Renewal says what was granted. Most programs
// use a [Session] instead, which renews its lease and knows its deadline. An
// [ErrAmbiguous] leaves at worst a lease that nobody knows and that expires.
func (s *Store) Grant(ctx context.Context, ttl time.Duration) (Lease, Renewal, error) {
	if ttl <= 0 {
		return nil, Renewal{}, s.invalid(opGrant, "", fmt.Errorf("TTL %v is not more than 0: use one like %v", ttl, s.caps.clampTTL(s.o.Timing.TTL)))
	}
	ctx, c, err := s.begin(ctx, opGrant, "")
	if err != nil {
		return nil, Renewal{}, err
	}
	l, r, err := s.b.Grant(ctx, s.caps.clampTTL(ttl))
	if err == nil && l == nil {
		err = errors.New("the backend returned no lease and no error")
	}
	if err = c.finish(ctx, err); err != nil {
		return nil, Renewal{}, err
	}
	return &storeLease{s: s, l: l}, r, nil
}

// learn takes note of a revision that an answer named.
func (s *Store) noteRevision(rev Revision) {
	for {
		old := s.seen.Load()
		if uint64(rev) <= old || s.seen.CompareAndSwap(old, uint64(rev)) {
			return
		}
	}
}

// newest returns the largest revision that an answer has named.
func (s *Store) newest() Revision { return Revision(s.seen.Load()) }

// Caps returns what the store can do.
func (s *Store) Caps() Caps { return s.caps }

// Timing returns the timing in force, defaults filled in.
func (s *Store) Timing() Timing { return s.o.Timing }

// Unwrap returns the Backend, for its optional interfaces. Calls made on it
// directly bypass everything that Store does.
func (s *Store) Unwrap() Backend { return s.b }

// Close ends every Session of the Store with [ErrClosed], without releasing
// what they hold (close the Sessions first for that), and closes the backend.
// Later calls of anything but Caps, Timing and Unwrap return ErrClosed. Close
// is idempotent; a second call waits for the first one. Close waits up to 100 ms
// for log records to be delivered, and for no callback of the Observer: a
// callback may call Close.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		s.mu.Lock()
		s.closed.Store(true)
		ends := s.ends
		s.ends = nil
		s.mu.Unlock()
		s.shut()
		for e := range ends {
			e.end(s.fail(opClose, "", ErrClosed, errors.New("the Store was closed")))
		}
		if err := s.b.Close(); err != nil {
			s.closeErr = s.wrap(opClose, "", err, nil)
			s.log.Warn("closing the backend failed", "error", s.closeErr)
		}
		s.background.Wait()
		flush(s.log, flushTime)
	})
	return s.closeErr
}

// flushTime bounds how long Close waits for log records to be delivered.
const flushTime = 100 * time.Millisecond

// spawn runs f in a goroutine that Close waits for, and reports false when the
// Store is closed. f must return soon after the backend was closed.
func (s *Store) spawn(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ends == nil {
		return false
	}
	s.background.Go(f)
	return true
}

// ender is what ends with its Store: a Session.
type ender interface{ end(reason error) }

// register has e ended, with an ErrClosed, when the Store is closed, unless it
// was unregistered before. A closed Store refuses it.
func (s *Store) register(e ender) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ends == nil {
		return s.fail(opClose, "", ErrClosed, errors.New("the Store was closed"))
	}
	s.ends[e] = struct{}{}
	return nil
}

// unregister forgets e, registered or not. e may call it while it is ended.
func (s *Store) unregister(e ender) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.ends, e)
}

// life ends when Close begins.
func (s *Store) life() context.Context { return s.open }
