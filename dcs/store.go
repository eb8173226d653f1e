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

// Options configure a Store. They are the same for every backend.
type Options struct {
	// Timing defaults to [DefaultTiming]; see [Timing.WithDefaults]. Its
	// RetryTimeout is the budget of every call.
	Timing Timing
	// Logger receives the events that an operator must know. Nil discards them. A
	// handler that blocks delays only the log (see [Detached]).
	Logger *slog.Logger
	// Observer receives calls, renewals, switches and state changes.
	Observer Observer
}

var discard = slog.New(slog.DiscardHandler)

// Store wraps a [Backend] and adds the checks that every backend needs. Every call
// of a Store
//
//   - checks its arguments against the grammar and the store's limits before
//     anything is sent ([ErrInvalid]);
//   - returns at once, with nothing sent, if the Store is closed or the context has
//     ended;
//   - has one budget, which is the smaller of the context's deadline and
//     RetryTimeout. Wait and Watch have none and take as long as their context;
//   - fails with one *[Error] whose kind is one of the sentinels. An error that the
//     backend did not classify is [ErrAmbiguous] for Commit and Grant, and
//     [ErrUnavailable] for all other calls.
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
	ends       map[ender]struct{} // the Sessions, which end with the Store; nil once closed
	background sync.WaitGroup     // goroutines that Close waits for

	// seen is the largest revision that an answer has carried. A Commit that is
	// sent later gets a larger one (P11).
	seen atomic.Uint64

	closed    atomic.Bool
	closeOnce sync.Once
	closeErr  error
}

// New returns a Store around b and takes ownership of b. It does no I/O. If the
// Timing does not fit the store, New returns an [ErrInvalid] that lists every fault
// with a setting that works. In that case b stays open and the caller must close it.
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

// backendName returns the name of b for errors, logs and events.
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

// faults returns the contradictions in c.
func (c Caps) faults() []error {
	var out []error
	if c.MinTTL < 0 || c.MaxTTL < 0 || (c.MaxTTL > 0 && c.MinTTL > c.MaxTTL) {
		out = append(out, fmt.Errorf("the backend's Caps are wrong: MinTTL %v, MaxTTL %v: MinTTL must be between 0 and MaxTTL, where a MaxTTL of 0 is no limit", c.MinTTL, c.MaxTTL))
	}
	if c.MaxValue < 0 || c.MaxTxnOps < 0 || c.MaxTxnBytes < 0 {
		out = append(out, fmt.Errorf("the backend's Caps are wrong: MaxValue %d, MaxTxnOps %d, MaxTxnBytes %d: none may be negative, and 0 is no limit", c.MaxValue, c.MaxTxnOps, c.MaxTxnBytes))
	}
	return out
}

// Get returns the entry of key at some moment between call and return, or
// [ErrNotFound].
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

// Snapshot returns the entry of prefix itself and of every key below it, all at one
// moment between call and return. The empty prefix is the whole tree.
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

// Wait blocks until the tree under prefix has changed since the revision since, which
// is the Revision of an earlier Snapshot, and returns a newer Snapshot. It may skip
// states in between, and never misses the last state. Since 0 it returns a tree at
// once, even if no key exists. A Wait may lag behind the writes of other clients,
// which a Snapshot does not, but never behind those of its own Store. It has no
// budget. When ctx ends while the store answers, Wait returns the bare error of ctx.
// If the store is silent for RetryTimeout, it returns [ErrUnavailable]. It may be
// called again with the same since.
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

// Commit applies t as a whole and at one revision if all its conditions hold, and
// returns that revision. [ErrConflict] and [ErrLost] report that nothing was
// written. [ErrAmbiguous] reports that t may have been applied or may still be; see
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

// Settle determines the outcome of a Commit that failed with [ErrAmbiguous], from its
// error. A nil error reports that the Commit was applied, at the returned revision.
// [ErrConflict] and [ErrLost] report that it was not applied and never will be. An
// *[Error] of kind ErrAmbiguous reports that the outcome is still open. If its Fenced
// is set, the Commit cannot be applied any more, and Settle cannot determine whether
// it was. After any other error Settle may be called again with the returned error.
//
// If the backend cannot settle, or the error has nothing to settle, Settle returns an
// ErrAmbiguous that matches [errors.ErrUnsupported] too.
func (s *Store) Settle(ctx context.Context, e *Error) (Revision, error) {
	if e == nil || !errors.Is(e, ErrAmbiguous) {
		return 0, s.invalid(opSettle, "", errors.New("the error has nothing to settle: pass the *Error of kind ErrAmbiguous that Commit returned"))
	}
	if e.Fenced {
		return 0, e
	}
	b, ok := s.b.(Settler)
	if !ok || e.Attempt == nil {
		err := fmt.Errorf("the outcome of this Commit cannot be settled: %w", errors.ErrUnsupported)
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

// keepAttempt adds from's attempt to err, so that the attempt can be settled later.
func keepAttempt(err error, from *Error) error {
	var e *Error
	if errors.As(err, &e) && e.Attempt == nil && !e.Fenced && !isDefiniteFailure(e.Kind) {
		e.Attempt = from.Attempt
	}
	return err
}

// Grant grants a lease of about ttl, which the store may move into the range from
// [Caps].MinTTL to MaxTTL. The Renewal reports the granted TTL. Most programs should
// use a [Session] instead, which renews its lease and knows its deadline. An
// [ErrAmbiguous] may leave a lease without an owner, which expires.
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

// noteRevision records a revision that an answer carried.
func (s *Store) noteRevision(rev Revision) {
	for {
		old := s.seen.Load()
		if uint64(rev) <= old || s.seen.CompareAndSwap(old, uint64(rev)) {
			return
		}
	}
}

// newest returns the largest revision that an answer has carried.
func (s *Store) newest() Revision { return Revision(s.seen.Load()) }

// Caps returns the limits and capabilities of the store.
func (s *Store) Caps() Caps { return s.caps }

// Timing returns the timing in force, with the defaults filled in.
func (s *Store) Timing() Timing { return s.o.Timing }

// Unwrap returns the Backend, for its optional interfaces. Calls that are made on it
// directly bypass the checks and budgets of the Store.
func (s *Store) Unwrap() Backend { return s.b }

// Close ends every Session of the Store with [ErrClosed] and closes the backend. It
// does not release the Sessions' locks; close the Sessions first for that. Later
// calls of all methods except Caps, Timing and Unwrap return ErrClosed. Close is
// idempotent, and a second call waits for the first one. Close waits up to 100 ms
// for log records to be delivered. It does not wait for callbacks of the Observer,
// because a callback may call Close.
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

// spawn runs f in a goroutine that Close waits for. It returns false if the Store is
// closed. f must return soon after the backend was closed.
func (s *Store) spawn(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ends == nil {
		return false
	}
	s.background.Go(f)
	return true
}

// ender ends with its Store. A Session is one.
type ender interface{ end(reason error) }

// register makes Close end e with an ErrClosed, unless e is unregistered before. It
// returns ErrClosed if the Store is closed.
func (s *Store) register(e ender) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ends == nil {
		return s.fail(opClose, "", ErrClosed, errors.New("the Store was closed"))
	}
	s.ends[e] = struct{}{}
	return nil
}

// unregister removes e if it is registered. e may call it while it is being ended.
func (s *Store) unregister(e ender) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.ends, e)
}

// life returns a context that ends when Close begins.
func (s *Store) life() context.Context { return s.open }
