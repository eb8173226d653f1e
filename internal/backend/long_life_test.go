package backend_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/attempt"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
	"github.com/holdfast-dcs/holdfast/internal/kvtree"
	"github.com/holdfast-dcs/holdfast/internal/watchcache"
)

// fault is the reaction of a store to requests.
type fault int

const (
	serves  fault = iota
	refuses       // it accepts no connection
	hangs         // it never answers
	forgets       // it applies a request and never answers
	faults
)

// store is a store with three servers, which fail together.
type store struct {
	tree *kvtree.Tree

	mu     sync.Mutex
	fault  fault
	fails  chan struct{} // closed by the next fault
	leases int           // granted so far
}

// set sets the fault. A fault ends the watches, and the leases that are there.
func (s *store) set(f fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault = f; f == serves {
		return
	}
	close(s.fails)
	s.fails = make(chan struct{})
	for _, id := range s.tree.Leases() {
		s.tree.EndLease(s.tree.Revision()+1, id)
	}
	_ = s.tree.Load(s.tree.Dump()) // the tree forgets which keys were deleted, as the servers of a store do
}

var errRefused = errors.New("connection refused")

// answer applies a request if the store serves, and returns once it is answered.
func (s *store) answer(ctx context.Context, apply func()) error {
	s.mu.Lock()
	f := s.fault
	if f == serves || f == forgets {
		apply()
	}
	s.mu.Unlock()
	switch f {
	case refuses:
		return &backend.Failure{Err: errRefused, Refused: true, Unreachable: true}
	case hangs, forgets:
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

// client is the client of a store, put together from the parts that the backends share.
type client struct {
	store   *store
	life    context.Context //nolint:containedctx // ends with the client
	pool    *endpoint.Pool
	conns   endpoint.Conns[string]
	ident   backend.Identity
	markers backend.Markers
	commits *attempt.Committer
	copy    watchcache.Cache
	parts   backend.Parts
	least   watchcache.MinRevision
}

const budget = 3 * time.Second

func newClient(s *store) *client {
	c := &client{store: s}
	life, end := context.WithCancelCause(context.Background())
	c.life = life
	seeds := []string{"a", "b", "c"}
	c.pool = endpoint.New(endpoint.Options{
		Backend: "test", Seeds: seeds, Budget: budget, Judge: backend.Judge,
		Observer: c.copy.Observer(nil), Drop: c.conns.Drop,
		Probe: func(ctx context.Context, addr string) (bool, error) {
			_, err := c.request(backend.Probing(ctx), addr)
			return addr == "a", err
		},
	})
	c.conns.Grace, c.conns.Known, c.conns.Close = budget, c.pool.Knows, func(string) {}
	c.ident = backend.Identity{Seeds: seeds, Pool: c.pool, Budget: budget, Life: life, Logger: slog.New(slog.DiscardHandler), Ask: func(ctx context.Context, _ string) (string, error) {
		return "store", s.answer(ctx, func() {})
	}}
	c.markers = backend.Markers{Budget: budget, Life: life, Grant: c.grant}
	c.commits = attempt.New(c, backend.CommitOptions(c.pool, attempt.Options{Backend: "test"}))
	c.copy.Init(watchcache.Source{
		Backend: "test", Budget: budget, Life: life, Pool: c.pool, Raise: c.least.Raise, Snapshot: c.snapshot,
		Read: func(ctx context.Context) (dcs.Snapshot, error) {
			s, err := c.read(ctx)
			return watchcache.Visible("", s), err
		},
		NoDeletesSince: func(context.Context, string, dcs.Revision, map[string]bool) bool { return false },
		Stream:         func(w *watchcache.Watch) watchcache.Stream { return &stream{c, w} },
	})
	c.parts = backend.Parts{Markers: &c.markers, End: end, Commits: c.commits, Copy: &c.copy, Pool: c.pool, Identity: &c.ident, Conns: &c.conns}
	c.pool.Start()
	return c
}

// admitted returns the connection to addr for a request.
func (c *client) admitted(ctx context.Context, addr string) (string, error) {
	if c.life.Err() != nil {
		return "", context.Cause(c.life)
	}
	conn, err := c.conns.Get(addr, nil, func() (string, error) { return addr, nil })
	if err == nil {
		err = c.ident.AdmitRequest(ctx, addr)
	}
	if err == nil {
		err = c.ident.Check(ctx, addr, "store")
	}
	return conn, err
}

// request reads the tree at addr.
func (c *client) request(ctx context.Context, addr string) (s dcs.Snapshot, err error) {
	if _, err = c.admitted(ctx, addr); err != nil {
		return s, err
	}
	if err = c.store.answer(ctx, func() { s = c.store.tree.Snapshot("") }); err == nil {
		c.copy.Saw(s.Revision)
	}
	return s, err
}

// read reads the tree, bookkeeping included.
func (c *client) read(ctx context.Context) (dcs.Snapshot, error) {
	a, err := backend.DoAt(ctx, c.pool, &c.ident, endpoint.Read, func() string { return "" }, c.request)
	return a.Value, err
}

func (c *client) snapshot(ctx context.Context, prefix string) (dcs.Snapshot, error) {
	return c.least.Snapshot("test", prefix, func() (dcs.Snapshot, string, error) {
		s, err := c.read(ctx)
		return s, "", err
	})
}

// Read implements [attempt.Transport].
func (c *client) Read(ctx context.Context, keys ...string) (out []dcs.Entry, err error) {
	_, err = c.read(ctx)
	for _, key := range keys {
		if e, ok := c.store.tree.Get(key); ok && err == nil {
			out = append(out, e)
		}
	}
	return out, err
}

// Send implements [attempt.Transport].
func (c *client) Send(ctx context.Context, r attempt.Request) (attempt.Answer, error) {
	return backend.Send(ctx, c.pool, &c.ident, &c.markers, r, backend.Anywhere, func(ctx context.Context, addr string, lease dcs.LeaseID) (a attempt.Answer, err error) {
		if _, err := c.admitted(ctx, addr); err != nil {
			return a, backend.NotSent(err)
		}
		tree := c.store.tree
		var refusal error
		err = c.store.answer(ctx, func() {
			whole := r.Whole(lease)
			if e, ok := tree.Get(r.Marker.Key); ok && !r.Marker.Create {
				whole.Then[0].Lease = e.Lease
			}
			a = attempt.Answer{Outcome: attempt.Applied, Revision: tree.Revision() + 1, Endpoint: addr}
			if refusal = tree.Commit(a.Revision, whole, kvtree.Options{Rebind: true}); refusal != nil {
				a.Outcome = attempt.Refused
			}
		})
		switch {
		case err != nil:
			return attempt.Answer{}, err
		case errors.Is(refusal, kvtree.ErrLease): // that of the marker
			c.markers.Lost(lease)
			return a, &backend.Failure{Endpoint: addr, Err: refusal, Refused: true}
		}
		return a, nil
	})
}

func (c *client) grant(ctx context.Context, _ time.Duration) (dcs.Lease, error) {
	var l dcs.Lease
	_, err := backend.DoAt(ctx, c.pool, &c.ident, endpoint.Write, func() string { return "" }, func(ctx context.Context, _ string) (any, error) {
		return nil, c.store.answer(ctx, func() {
			c.store.leases++
			id := dcs.LeaseID(fmt.Sprint(c.store.leases))
			c.store.tree.Grant(id)
			l = &lease{c.store, id}
		})
	})
	return l, err
}

// lease is the lease of the markers.
type lease struct {
	store *store
	id    dcs.LeaseID
}

func (l *lease) ID() dcs.LeaseID { return l.id }

func (l *lease) Renew(ctx context.Context, _ ...string) (r dcs.Renewal, err error) {
	var live bool
	if err = l.store.answer(ctx, func() { live = l.store.tree.Live(l.id) }); err == nil && !live {
		err = dcs.ErrLost
	}
	return r, err
}

func (l *lease) Revoke(ctx context.Context) error {
	return l.store.answer(ctx, func() { l.store.tree.EndLease(l.store.tree.Revision()+1, l.id) })
}

// stream is a watch of the tree.
type stream struct {
	c *client
	w *watchcache.Watch
}

// Follow implements [watchcache.Stream].
func (s *stream) Follow(ctx context.Context) error {
	watch := s.c.store.tree.Watch("")
	defer watch.Stop()
	for {
		s.c.store.mu.Lock()
		fails := s.c.store.fails
		s.c.store.mu.Unlock()
		moved := watch.Moved()
		tree, err := s.c.request(ctx, s.w.Endpoint())
		if err == nil {
			err = s.w.TakeNewer(tree.Revision, watchcache.Visible("", tree).Entries)
		}
		if err != nil {
			return err
		}
		select {
		case <-moved:
		case <-fails:
			return errRefused
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Probe implements [watchcache.Stream].
func (s *stream) Probe(ctx context.Context) error {
	_, err := s.c.request(ctx, s.w.Endpoint())
	return err
}

// use makes calls of all kinds at the same time, and returns the number that failed.
func (c *client) use(t *testing.T) (failed int) {
	var calls sync.WaitGroup
	var mu sync.Mutex
	call := func(f func(ctx context.Context) error) {
		calls.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), budget)
			defer cancel()
			if err := f(ctx); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed++
			}
		})
	}
	since := c.copy.Tree.Revision()
	for i := range 3 {
		call(func(ctx context.Context) error {
			_, err := c.commits.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put(fmt.Sprint("k", i), nil)}})
			return err
		})
		call(func(ctx context.Context) error {
			_, err := c.snapshot(ctx, "")
			return err
		})
		call(func(ctx context.Context) error {
			_, err := c.copy.Wait(ctx, fmt.Sprint("k", i), since)
			return err
		})
	}
	calls.Wait()
	return failed
}

// outage lets the store fail for longer than a call may take. It returns once calls of all
// kinds succeed again.
func (c *client) outage(t *testing.T, f fault) {
	t.Helper()
	c.store.set(f)
	require.Positive(t, c.use(t))
	c.store.set(serves)
	for began := time.Now(); c.use(t) > 0; {
		require.Less(t, time.Since(began), time.Minute, "after fault %d", f)
	}
}

// Outages in which the leases end and answers to writes get lost leave no memory, no
// goroutine and no connection behind. The slow profile has 1,000 of them.
func TestOutagesStayFlat(t *testing.T) {
	count := 60
	if os.Getenv("HOLDFAST_PROFILE") == "slow" {
		count = 1000
	}
	bubble.Test(t, func(t *testing.T) {
		s := &store{tree: kvtree.New(), fails: make(chan struct{})}
		c := newClient(s)
		defer c.parts.Close()
		require.Zero(t, c.use(t))
		usage := func() (heap uint64, goroutines, conns int) {
			time.Sleep(2 * budget)
			synctest.Wait()
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc, runtime.NumGoroutine(), c.conns.Len()
		}
		outages := func(n int) {
			for i := range n {
				c.outage(t, 1+fault(i)%(faults-1))
			}
		}
		outages(count / 3)
		heap, goroutines, conns := usage()
		outages(count)
		after, running, open := usage()
		t.Logf("heap %d and %d, goroutines %d and %d, connections %d and %d, leases %d", heap, after, goroutines, running, conns, open, s.leases)
		require.Less(t, after, heap+64<<10)
		require.LessOrEqual(t, running, goroutines)
		require.LessOrEqual(t, open, conns)
		require.Greater(t, s.leases, count, "the markers were lost in each outage")
	})
}
