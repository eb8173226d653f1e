package watchcache

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
	"github.com/holdfast-dcs/holdfast/internal/kvtree"
)

// Source describes the store that a Cache copies.
type Source struct {
	// Backend is the name of the backend in errors. Budget is Timing.RetryTimeout.
	// Life must end when the Store is closed.
	Backend string
	Budget  time.Duration
	Life    context.Context //nolint:containedctx // its life is that of the Backend

	// Read returns the current tree without bookkeeping. Nil means that the watch
	// reads the tree and passes it to Take.
	Read func(ctx context.Context) (dcs.Snapshot, error)
	// Snapshot is the Snapshot method of the Backend.
	Snapshot func(ctx context.Context, prefix string) (dcs.Snapshot, error)
	// Raise reports whether rev is not below the largest revision that the Store has
	// returned, and if so makes it the largest: see [MinRevision.Raise].
	Raise func(rev dcs.Revision) bool
	// NoDeletesSince reports whether no key at or below prefix was deleted after
	// since, a revision before the Cache began. present holds the current keys.
	// False means yes or unknown.
	NoDeletesSince func(ctx context.Context, prefix string, since dcs.Revision, present map[string]bool) bool

	// Pool chooses the endpoints. Stream returns a watch at the endpoint of w. It
	// must do no I/O. Delay is how long a watch may hold changes back.
	Pool   *endpoint.Pool
	Stream func(w *Watch) Stream
	Delay  time.Duration
	// Follow replaces Pool and Stream if it is not nil. It watches at one server
	// until that watch fails. It must apply the changes to the Tree and call Alive.
	Follow func(ctx context.Context) error
}

// Cache is a copy of a store's tree that serves every Wait of a Store. One watch at a
// time keeps it up to date. The first Wait starts the watch.
type Cache struct {
	Source
	Tree *kvtree.Tree
	// Every is how long a watch may be without changes before it is probed. Limit is
	// how long it may lag.
	Every, Limit time.Duration
	// Behind receives a value when another answer has named a later revision than
	// the Tree's. Left receives the endpoints that the Pool ejects or removes.
	Behind chan struct{}
	Left   chan string

	start   sync.Once
	done    sync.WaitGroup
	latest  atomic.Uint64 // the largest revision that any answer named
	running atomic.Bool

	mu       sync.Mutex
	synced   bool          // the Tree is a complete copy
	base     dcs.Revision  // the Tree knows no changes before it
	servedAt dcs.Instant   // when the store last served
	fault    error         // the error of the last watch, if the store has not served since
	final    bool          // fault is a definite answer of the store
	change   chan struct{} // closed and replaced when set changes a field
}

// Init prepares c for its first Wait.
func (c *Cache) Init(s Source) {
	c.Source, c.Tree = s, kvtree.New()
	c.Every, c.Limit = WatchTimes(s.Budget)
	c.Behind, c.Left, c.change = make(chan struct{}, 1), make(chan string, 16), make(chan struct{})
}

// WatchTimes returns the values of Every and Limit for a budget.
func WatchTimes(budget time.Duration) (every, limit time.Duration) {
	return min(maxProbePause, budget/4), min(maxLag, budget/6)
}

const (
	maxProbePause = 2500 * time.Millisecond
	maxLag        = 500 * time.Millisecond
)

// Close waits until the watch has ended. The caller must end Life first.
func (c *Cache) Close() {
	c.start.Do(func() {}) // no watch is started after this
	c.done.Wait()
}

// Saw records the revision in an answer of the store. Backends must call it for each
// answer.
func (c *Cache) Saw(rev dcs.Revision) {
	for {
		latest := c.latest.Load()
		if uint64(rev) <= latest {
			return
		}
		if c.latest.CompareAndSwap(latest, uint64(rev)) {
			break
		}
	}
	if c.running.Load() && c.Tree.Revision() < rev {
		select {
		case c.Behind <- struct{}{}:
		default:
		}
	}
}

// Latest returns the largest revision in any answer.
func (c *Cache) Latest() dcs.Revision { return dcs.Revision(c.latest.Load()) }

// Observer returns an observer for the Pool. It notifies the watch of endpoints that
// were ejected or removed, and passes each event to next, which may be nil.
func (c *Cache) Observer(next func(dcs.EndpointEvent)) func(dcs.EndpointEvent) {
	return func(ev dcs.EndpointEvent) {
		if ev.Change == dcs.Ejected || ev.Change == dcs.Removed {
			select {
			case c.Left <- ev.From:
			default:
			}
		}
		if next != nil {
			next(ev)
		}
	}
}

// Wait implements a Backend's Wait.
func (c *Cache) Wait(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, error) {
	c.start.Do(func() {
		c.mu.Lock()
		c.servedAt = dcs.Now()
		c.mu.Unlock()
		c.running.Store(true)
		c.done.Add(1)
		go c.run()
	})
	began := dcs.Now()
	watch := c.Tree.Watch(prefix)
	defer watch.Stop()
	for {
		moved := watch.Moved()
		synced, change, silent, fault, final := c.state(began)
		if err := c.over(ctx, prefix, silent, fault, final); err != nil {
			return dcs.Snapshot{}, err
		}
		if base := c.Begins(); synced && since < base {
			switch was, err := c.before(ctx, prefix, since); {
			case err != nil:
				return dcs.Snapshot{}, err
			case was == unchanged:
				since = base
			case was == unclear:
				// The copy may not have a change that was made in the meantime.
				if s, ok, err := c.fresh(ctx, prefix, since); ok || err != nil {
					return s, err
				}
			}
		}
		if synced && c.Tree.MovedSince(prefix, since) {
			s, ok, err := c.answer(ctx, prefix, since)
			if ok || err != nil {
				return s, err
			}
		}
		c.sleep(ctx, moved, change, c.Budget-silent)
	}
}

// Begins returns the revision at which the Tree was read. The Tree has the changes
// after that revision. It is 0 before the first read.
func (c *Cache) Begins() dcs.Revision {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.base
}

// past is the knowledge about changes before the revision of Begins.
type past uint8

const (
	changed   past = iota // the Tree has a change
	unchanged             // the store confirms that there was none
	unclear               // neither is known
)

// before reports whether a key under prefix changed between since and the revision of
// Begins. The Tree does not have the deletions of that time.
func (c *Cache) before(ctx context.Context, prefix string, since dcs.Revision) (past, error) {
	now := map[string]bool{}
	for _, e := range c.Tree.Snapshot(prefix).Entries {
		if e.Modified > since {
			return changed, nil
		}
		now[e.Key] = true
	}
	if since == 0 {
		return changed, nil
	}
	one, cancel := context.WithTimeout(ctx, c.Budget)
	defer cancel()
	was := unclear
	if c.NoDeletesSince(one, prefix, since, now) {
		was = unchanged
	}
	return was, ctx.Err()
}

// state returns the state that decides whether a Wait that began at began continues.
// silent is the time since the store last served, or since began if that is later.
func (c *Cache) state(began dcs.Instant) (synced bool, change <-chan struct{}, silent time.Duration, fault error, final bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	servedAt := c.servedAt
	if servedAt.Before(began) {
		servedAt = began
	}
	return c.synced, c.change, servedAt.Elapsed(), c.fault, c.final
}

// over returns the error that ends a Wait, or nil.
func (c *Cache) over(ctx context.Context, prefix string, silent time.Duration, fault error, final bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.Life.Err() != nil {
		return &dcs.Error{Backend: c.Backend, Op: "Wait", Key: prefix, Kind: dcs.ErrClosed}
	}
	if final || silent >= c.Budget {
		if fault == nil {
			fault = errors.New("no answer on the watch of the store")
		}
		return backend.WrapError(c.Backend, "Wait", prefix, "", fault)
	}
	return nil
}

// sleep waits for a change of the Tree or of c, but no longer than d.
func (c *Cache) sleep(ctx context.Context, moved, change <-chan struct{}, d time.Duration) {
	t := time.NewTimer(max(d, time.Millisecond))
	defer t.Stop()
	select {
	case <-moved:
	case <-change:
	case <-t.C:
	case <-ctx.Done():
	case <-c.Life.Done():
	}
}

// answer returns the Snapshot that ends a Wait, and reports whether it is later than
// since. The Snapshot is the Tree's, or is read from the store if the Store has already
// returned a later one than the Tree's.
func (c *Cache) answer(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, bool, error) {
	s := c.Tree.Snapshot(prefix)
	if s.Revision > since && c.Raise(s.Revision) {
		return Visible(prefix, s), true, nil
	}
	if s.Revision <= since {
		return s, false, nil
	}
	return c.fresh(ctx, prefix, since)
}

// fresh reads the store, and reports whether its Snapshot is later than since.
func (c *Cache) fresh(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, bool, error) {
	one, cancel := context.WithTimeout(ctx, c.Budget)
	defer cancel()
	s, err := c.Snapshot(one, prefix)
	if err != nil && ctx.Err() != nil {
		return s, false, ctx.Err()
	}
	return s, err == nil && s.Revision > since, err
}

// set calls f, which changes c, and wakes the Waits.
func (c *Cache) set(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	close(c.change)
	c.change = make(chan struct{})
}

// Alive records that the store serves.
func (c *Cache) Alive() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.servedAt, c.fault, c.final = dcs.Now(), nil, false
}
