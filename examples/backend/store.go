//go:build linux

package filestore

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/attempt"
)

// Step 4: the client, its budget and its end.

// Config are the settings of a client.
type Config struct {
	// Dir is the directory of the store. It must exist.
	Dir string
	// Timing is that of the Store that uses the client. A backend needs its RetryTimeout,
	// to report a silent store in Wait.
	Timing dcs.Timing
}

// Store is one client of the store in a directory. It implements [dcs.Backend] and
// [dcs.Settler] and is passed to [dcs.New].
type Store struct {
	dir     string
	boot    string
	timing  dcs.Timing
	markers dcs.LeaseID // the lease of this client's attempt markers
	commits *attempt.Committer
	feed    *feed
	hooks   hooks
	queue   *queue
	cache   cache
	seen    atomic.Uint64 // the largest revision that an answer has carried

	life  context.Context //nolint:containedctx // it ends with Close
	end   context.CancelCauseFunc
	io    chan struct{} // has an element for each goroutine that does I/O
	close sync.Once
}

var (
	_ dcs.Backend = (*Store)(nil)
	_ dcs.Settler = (*Store)(nil)
)

// hooks let tests stand between the client and the files.
type hooks struct {
	// exchange makes a request by calling send. A test may delay, repeat or lose it.
	exchange func(ctx context.Context, r request, send func(ctx context.Context) error) error
}

// request is one access to the files. A client of servers would send it to one.
type request struct {
	op   string // the name of the request in the conformance suite
	keys []string
}

// New returns a client. It changes nothing in the store.
func New(c Config) (*Store, error) {
	return newStore(c, hooks{exchange: func(ctx context.Context, _ request, send func(ctx context.Context) error) error {
		return send(ctx)
	}})
}

func newStore(c Config, h hooks) (*Store, error) {
	if info, err := os.Stat(c.Dir); err != nil || !info.IsDir() {
		return nil, &dcs.Error{Kind: dcs.ErrInvalid, Err: fmt.Errorf("the store's directory %q does not exist: create it", c.Dir)}
	}
	boot, err := bootID()
	if err != nil {
		return nil, err // without a kind: dcs reports that the store is not available
	}
	prefix := ".op/" + rand.Text() // never used again
	b := &Store{
		dir: c.Dir, boot: boot, timing: c.Timing.WithDefaults(), hooks: h,
		markers: dcs.LeaseID(prefix), io: make(chan struct{}, 64), queue: queueOf(c.Dir),
	}
	b.life, b.end = context.WithCancelCause(context.Background())
	if b.feed, err = newFeed(b); err != nil {
		return nil, err
	}
	b.commits = attempt.New(transport{b}, attempt.Options{Backend: b.Name(), Prefix: prefix})
	return b, nil
}

// Name returns the name of the backend for errors and logs.
func (b *Store) Name() string { return "filestore" }

// Caps returns the limits. The values are small because every write writes the whole
// file. No process runs while no client does, so that nothing ends leases then.
func (b *Store) Caps() dcs.Caps {
	return dcs.Caps{
		MinTTL: 100 * time.Millisecond, MaxTTL: 24 * time.Hour,
		MaxValue: 64 << 10, MaxTxnOps: 32, MaxTxnBytes: 256 << 10,
		Rebind: true, SelfExpiry: false,
	}
}

// Close ends the calls under way and waits for their goroutines, except for those that
// the kernel holds, for example in a write to a disk that hangs.
func (b *Store) Close() error {
	b.close.Do(func() {
		b.end(dcs.ErrClosed)
		_ = b.commits.Close() // always nil
		b.feed.close()
		patience := time.After(b.timing.RetryTimeout / 2)
		for range cap(b.io) {
			select {
			case b.io <- struct{}{}:
			case <-patience:
				return
			}
		}
		b.cache.put(nil, nil, nil)
	})
	return nil
}

// exchange makes one request. Every access to the files goes through here. It returns
// when ctx or the client's life ends, even if a disk hangs. send may then still be at
// work, so that the outcome of a write is unknown.
func exchange[T any](ctx context.Context, b *Store, r request, send func(ctx context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(b.life, func() { cancel(dcs.ErrClosed) })()
	var mu sync.Mutex // a request that was repeated or held back has several answers
	var answer T
	err := b.hooks.exchange(ctx, r, func(ctx context.Context) error {
		v, err := bounded(ctx, b.io, func() (T, error) { return send(ctx) })
		mu.Lock()
		defer mu.Unlock()
		answer = v
		return err
	})
	mu.Lock()
	defer mu.Unlock()
	return answer, err
}

// bounded runs f in a goroutine that may stay behind when ctx ends. io bounds the number
// of them, because each may occupy a thread.
func bounded[T any](ctx context.Context, io chan struct{}, f func() (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	var none T
	select {
	case io <- struct{}{}:
	case <-ctx.Done():
		return none, notSent(context.Cause(ctx))
	}
	done := make(chan result, 1)
	go func() { // ends with f
		defer func() { <-io }()
		v, err := f()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.v, r.err
	case <-ctx.Done():
	}
	// An update that still waits for its turn ends now, with a definite answer. It would be
	// ambiguous without this. A disk that hangs gives none, and then the outcome is unknown.
	select {
	case r := <-done:
		return r.v, r.err
	case <-time.After(5 * time.Millisecond):
		return none, context.Cause(ctx)
	}
}

// update runs f on the state under the lock. f must tolerate that it is run twice.
func update[T any](ctx context.Context, b *Store, r request, f func(s *state, now time.Duration) (answer T, changed bool)) (T, error) {
	return exchange(ctx, b, r, func(ctx context.Context) (T, error) {
		var answer, none T
		err := b.locked(ctx, func(s *state, now time.Duration) (changed bool) {
			answer, changed = f(s, now)
			return changed
		})
		if err != nil {
			return none, err // f may still run
		}
		return answer, nil
	})
}

// read returns the present state, which must not be modified. It needs no lock, so that a
// process that hangs with the lock stops no reader. If a lease has expired, the reader ends
// it before it looks: a change without a revision of its own would escape a Wait.
func read(ctx context.Context, b *Store, r request) (*state, error) {
	return exchange(ctx, b, r, func(ctx context.Context) (*state, error) {
		s, err := b.load()
		if err != nil || !s.due(b.boot, clock()) {
			return s, err
		}
		// The reading may only be used if it was not given up.
		var present *state
		err = b.locked(ctx, func(s *state, _ time.Duration) bool {
			present = s
			return false
		})
		if err != nil {
			return nil, err
		}
		return present, nil
	})
}

// Get implements [dcs.Backend]. A file that was renamed is the only state there is, so
// that the read is linearizable. A store with followers must ask a quorum here.
func (b *Store) Get(ctx context.Context, key string) (dcs.Entry, error) {
	s, err := read(ctx, b, request{"Get", []string{key}})
	if err != nil {
		return dcs.Entry{}, err // without a kind: the outcome is unknown
	}
	b.note(s.Revision)
	e, ok := s.Entries[key]
	if !ok {
		return dcs.Entry{}, dcs.ErrNotFound
	}
	return e, nil
}

// Snapshot implements [dcs.Backend].
func (b *Store) Snapshot(ctx context.Context, prefix string) (dcs.Snapshot, error) {
	s, err := read(ctx, b, request{"Snapshot", []string{prefix}})
	if err != nil {
		return dcs.Snapshot{}, err
	}
	b.note(s.Revision)
	return s.snapshot(prefix), nil
}

// note records the revision of an answer, so that no Wait returns an older state.
func (b *Store) note(r dcs.Revision) {
	for old := b.seen.Load(); uint64(r) > old && !b.seen.CompareAndSwap(old, uint64(r)); old = b.seen.Load() {
	}
}

func (b *Store) newest() dcs.Revision { return dcs.Revision(b.seen.Load()) }
