package watchcache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
)

var errFailed = errors.New("the server has failed")

// busy is a Cache of a store whose servers fail again and again.
type busy struct {
	Cache
	changes chan dcs.Revision // of the key "k"
	fails   chan struct{}     // ends a watch
	watches atomic.Int64
	ejected atomic.Int64
	bad     atomic.Value // the endpoint that failed last, whose probes fail too
}

// newBusy returns a Cache of a tree at revision 20, and a function that closes it.
func newBusy() (*busy, func()) {
	b := &busy{changes: make(chan dcs.Revision), fails: make(chan struct{})}
	life, end := context.WithCancelCause(context.Background())
	var least MinRevision
	pool := endpoint.New(endpoint.Options{
		Backend: "fake", Seeds: []string{"a", "b", "c"}, Budget: budget, Judge: backend.Judge,
		Probe: func(_ context.Context, addr string) (bool, error) {
			if addr == b.bad.Load() {
				return false, errFailed
			}
			return false, nil
		},
		Observer: b.Observer(func(ev dcs.EndpointEvent) {
			if ev.Change == dcs.Ejected {
				b.ejected.Add(1)
			}
		}),
	})
	b.Init(Source{
		Backend: "fake", Budget: budget, Life: life, Raise: least.Raise, Pool: pool,
		Read:   func(context.Context) (dcs.Snapshot, error) { return dcs.Snapshot{Revision: 20}, nil },
		Stream: func(w *Watch) Stream { return fakeStream{server{follow: b.follow}, w} },
	})
	pool.Start()
	return b, func() {
		end(dcs.ErrClosed)
		b.Close()
		pool.Close()
	}
}

func (b *busy) follow(ctx context.Context, w *Watch) error {
	b.watches.Add(1)
	w.Heard()
	for {
		select {
		case rev := <-b.changes:
			if err := w.Apply(rev, []dcs.Entry{{Key: "k", Created: 1, Modified: rev}}, nil); err != nil {
				return err
			}
		case <-b.fails:
			b.bad.Store(w.Endpoint())
			return errFailed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// round makes n Waits at the same time. A change ends half of them, and their contexts the
// others, which are on keys that do not exist.
func (b *busy) round(t *testing.T, n int) {
	t.Helper()
	rev := max(20, b.Tree.Revision())
	var waits sync.WaitGroup
	var wrong atomic.Int64
	for i := range n / 2 {
		waits.Go(func() {
			if s, err := b.Wait(t.Context(), "k", rev); err != nil || len(s.Entries) != 1 {
				wrong.Add(1)
			}
		})
		waits.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			if _, err := b.Wait(ctx, fmt.Sprint("quiet/", rev, "/", i), rev); !errors.Is(err, context.DeadlineExceeded) {
				wrong.Add(1)
			}
		})
	}
	synctest.Wait()
	b.changes <- rev + 1
	waits.Wait()
	require.Zero(t, wrong.Load())
}

// Many Waits, while the watch moves from one failing server to the next, leave no memory
// and no goroutine behind. The slow profile makes a million Waits over 10,000 watches.
func TestWaitsStayFlat(t *testing.T) {
	rounds := 300
	if os.Getenv("HOLDFAST_PROFILE") == "slow" {
		rounds = 10_000
	}
	bubble.Test(t, func(t *testing.T) {
		b, end := newBusy()
		defer end()
		usage := func() (heap uint64, goroutines int) {
			time.Sleep(time.Minute) // until all servers are in use again
			synctest.Wait()
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc, runtime.NumGoroutine()
		}
		run := func(rounds int) {
			for range rounds {
				b.round(t, 100)
				b.fails <- struct{}{}
				time.Sleep(2 * time.Second) // for the probes
			}
		}
		run(rounds / 10)
		heap, goroutines := usage()
		run(rounds)
		after, running := usage()
		t.Logf("heap %d and %d, goroutines %d and %d, watches %d, ejections %d", heap, after, goroutines, running, b.watches.Load(), b.ejected.Load())
		require.Less(t, after, heap+64<<10)
		require.LessOrEqual(t, running, goroutines)
		require.Greater(t, b.watches.Load(), int64(rounds))
		require.Greater(t, b.ejected.Load(), int64(rounds/2))
	})
}
