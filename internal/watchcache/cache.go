package watchcache

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
	"github.com/holdfast-dcs/holdfast/internal/kv"
	"github.com/holdfast-dcs/holdfast/internal/remote"
)

// Source describes the store that a Cache copies.
type Source struct {
	// Backend is the name for errors, Budget is Timing.RetryTimeout, and Life
	// ends when the Store is closed.
	Backend string
	Budget  time.Duration
	Life    context.Context //nolint:containedctx // the Backend's end

	// Read returns the tree as it is, bookkeeping left out, within ctx. Nil means
	// that the watch reads it, and passes it to Take.
	Read func(ctx context.Context) (dcs.Snapshot, error)
	// Snapshot is the Backend's own.
	Snapshot func(ctx context.Context, prefix string) (dcs.Snapshot, error)
	// Raise reports whether rev is not older than what the Store has returned,
	// and remembers it.
	Raise func(rev dcs.Revision) bool
	// NoDeletesSince reports whether no key at or below prefix was deleted after
	// since, a revision before the Cache began. present holds the current keys.
	// False means yes or unknown.
	NoDeletesSince func(ctx context.Context, prefix string, since dcs.Revision, present map[string]bool) bool

	// Pool chooses the endpoints. Stream returns a watch at the endpoint of w, and
	// does no I/O. Delay is how long a watch may hold changes back.
	Pool   *endpoint.Pool
	Stream func(w *Watch) Stream
	Delay  time.Duration
	// Follow, if it is set, is used instead of Pool and Stream. It is one watch at
	// one server, until that fails: it writes changes into the Tree, and calls Alive.
	Follow func(ctx context.Context) error
}

// Cache is a copy of a store's tree, fed by one watch at a time, which serves
// every Wait of a Store. The first Wait starts it.
type Cache struct {
	Source
	Tree *kv.Tree
	// A watch without changes for Every is probed. Limit is how long it may lag.
	Every, Limit time.Duration
	// Behind receives when another answer named a later revision than the Tree's,
	// Left the endpoints that the Pool ejects or removes.
	Behind chan struct{}
	Left   chan string

	start   sync.Once
	done    sync.WaitGroup
	latest  atomic.Uint64 // the largest revision that any answer named
	running atomic.Bool

	mu     sync.Mutex
	synced bool          // the Tree is a copy
	base   dcs.Revision  // the Tree knows no changes before it
	heard  dcs.Instant   // when the store last was known to serve
	fault  error         // the reason why it does not
	final  bool          // fault is the store's own answer
	change chan struct{} // closed when any of these changes
}

// Init prepares c for its first Wait.
func (c *Cache) Init(s Source) {
	c.Source, c.Tree = s, kv.New()
	c.Every, c.Limit = WatchTimes(s.Budget)
	c.Behind, c.Left, c.change = make(chan struct{}, 1), make(chan string, 16), make(chan struct{})
}

// WatchTimes returns a Cache's Every and Limit for a budget.
func WatchTimes(budget time.Duration) (every, limit time.Duration) {
	return min(maxProbePause, budget/4), min(maxLag, budget/6)
}

const (
	maxProbePause = 2500 * time.Millisecond
	maxLag        = 500 * time.Millisecond
)

// Close waits for the watch, once Life has ended.
func (c *Cache) Close() {
	c.start.Do(func() {}) // none is started any more
	c.done.Wait()
}

// Saw notes a revision that an answer of the store named. Backends must call it for
// each answer.
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

// Latest returns the largest revision that an answer named.
func (c *Cache) Latest() dcs.Revision { return dcs.Revision(c.latest.Load()) }

// Observer returns an observer for the Pool. It reports to the watch which endpoints
// were ejected or removed, and passes each event on to next, which may be nil.
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
		c.heard = dcs.Now()
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
				// What may have been changed meanwhile may not be in the copy yet.
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

// Begins returns the revision from which on the Tree knows the changes. It is 0
// before the first read.
func (c *Cache) Begins() dcs.Revision {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.base
}

// past is the knowledge about changes before the Tree begins.
type past uint8

const (
	changed   past = iota // the Tree has a change
	unchanged             // the store confirms that there was none
	unclear               // neither of both
)

// before reports whether anything changed between since and the Tree's beginning.
// The Tree has no deletions of that time.
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

// state returns the state that decides whether a Wait that began at began goes on.
func (c *Cache) state(began dcs.Instant) (synced bool, change <-chan struct{}, silent time.Duration, fault error, final bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	heard := c.heard
	if heard.Before(began) {
		heard = began
	}
	return c.synced, c.change, heard.Elapsed(), c.fault, c.final
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
			fault = errors.New("the watch is silent")
		}
		return remote.WrapError(c.Backend, "Wait", prefix, "", fault)
	}
	return nil
}

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

// answer returns the Snapshot that ends a Wait. It is the Tree's, or the store's if
// the Store has returned a later one than the Tree's already.
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

// set changes c with f and wakes the Waits.
func (c *Cache) set(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	close(c.change)
	c.change = make(chan struct{})
}

// Alive notes that the store serves.
func (c *Cache) Alive() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard, c.fault, c.final = dcs.Now(), nil, false
}
