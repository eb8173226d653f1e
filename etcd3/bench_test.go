package etcd3

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
	"github.com/holdfast-dcs/holdfast/internal/testcluster/compare"
)

// benchTiming has the size of the default, so that nothing expires during a benchmark.
var benchTiming = dcs.Timing{TTL: 60 * time.Second, LoopWait: 10 * time.Second, RetryTimeout: 10 * time.Second}

// rig is a cluster with a Holdfast client and the vendor's client.
type rig struct {
	b       *testing.B
	cluster *testcluster.Cluster
	store   *dcs.Store
	raw     *clientv3.Client
}

func newRig(b *testing.B) *rig {
	b.Helper()
	c := testcluster.New(b, testcluster.Options{Kind: testcluster.Etcd, Election: time.Second})
	r := &rig{b: b, cluster: c, store: ours(b, c)}
	r.raw = vendor(b, c)
	for range 200 { // warm on both sides
		_, err := r.store.Commit(b.Context(), dcs.Txn{Then: []dcs.Write{dcs.Put("warm", nil)}})
		require.NoError(b, err)
		_, err = r.raw.Put(b.Context(), "/raw/warm", "")
		require.NoError(b, err)
	}
	return r
}

func ours(b *testing.B, c *testcluster.Cluster) *dcs.Store {
	backend, err := New(Config{Endpoints: c.Endpoints(), Root: "bench", Timing: benchTiming})
	require.NoError(b, err)
	return testcluster.OpenStore(b, backend, benchTiming)
}

// vendor returns a clientv3 client, set up as in its documentation. Its first endpoint is
// the leader, because the Holdfast client prefers the leader.
func vendor(b *testing.B, c *testcluster.Cluster) *clientv3.Client {
	endpoints := c.Endpoints()
	if l := c.Leader(b.Context()); l > 0 {
		endpoints[0], endpoints[l] = endpoints[l], endpoints[0]
	}
	raw, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
	require.NoError(b, err)
	b.Cleanup(func() { raw.Close() })
	return raw
}

// BenchmarkConfirm measures a confirmation, which renews the lease and reads the lock at
// once. The target is at most 1.1 times the slower of the two vendor calls that do half
// of it each, and at most 25 allocations for the renewal.
func BenchmarkConfirm(b *testing.B) {
	r := newRig(b)
	ctx := b.Context()
	s := compare.Session(b, r.store)
	hold, err := s.Acquire(ctx, "confirm", nil)
	require.NoError(b, err)
	l, err := r.raw.Grant(ctx, 60)
	require.NoError(b, err)
	confirm := compare.Timed("confirm", func() error { return hold.Confirm(ctx) })
	for range 200 {
		confirm.Once()
	}
	backend := r.store.Unwrap().(*Backend)
	c, err := backend.connected(backend.Endpoints()[0])
	require.NoError(b, err)
	number := leaseNumber(s.Lease())
	b.ReportMetric(testing.AllocsPerRun(500, func() {
		sent, err := c.renewals.send(ctx, number)
		if err == nil {
			_, err = sent.wait(ctx)
		}
		if err != nil {
			panic(err)
		}
	}), "renewal-allocs")
	compare.Versus(b, 0.5, 20, 100, confirm,
		compare.Timed("keepalive-once", func() error { _, err := r.raw.KeepAliveOnce(ctx, l.ID); return err }),
		compare.Timed("get", func() error { _, err := r.raw.Get(ctx, "/bench/confirm"); return err }))
}

// campaign takes the vendor's lock and returns the function that releases it.
func campaign(ctx context.Context, s *concurrency.Session, key string) func() {
	e := concurrency.NewElection(s, key)
	if err := e.Campaign(ctx, "x"); err != nil {
		panic(err)
	}
	return func() {
		if err := e.Resign(ctx); err != nil {
			panic(err)
		}
	}
}

func campaigner(b *testing.B, raw *clientv3.Client) *concurrency.Session {
	s, err := concurrency.NewSession(raw, concurrency.WithTTL(60))
	require.NoError(b, err)
	b.Cleanup(func() { s.Close() })
	return s
}

// BenchmarkAcquire measures Acquire. The target is at most 0.8 times Campaign of
// concurrency.Election.
func BenchmarkAcquire(b *testing.B) {
	r := newRig(b)
	theirs := campaigner(b, r.raw)
	compare.Acquiring(b, compare.Session(b, r.store), "campaign", func() func() { return campaign(b.Context(), theirs, "/raw/lock") })
}

// BenchmarkHandover measures the time from the holder's Release to the waiter's Acquire.
// The target is at most 1.1 times Election's if the waiter has waited for 250 ms, and
// 0.2 times if it has waited for 15 ms.
func BenchmarkHandover(b *testing.B) {
	compare.HandingOver(b, "election", func(b *testing.B) ([2]*dcs.Store, func(client, n int) func()) {
		r := newRig(b)
		elections := []*concurrency.Session{campaigner(b, r.raw), campaigner(b, vendor(b, r.cluster))}
		return [2]*dcs.Store{r.store, ours(b, r.cluster)}, func(i, n int) func() {
			return campaign(b.Context(), elections[i], fmt.Sprint("/raw/lock", n))
		}
	})
}

// BenchmarkWaits wakes 1,000 Waits on one Store with one write. The target is a p99 of
// at most 0.5 times that of 1,000 watches of the vendor's client. It also reports the
// number of goroutines of one more Session, which must be at most one.
func BenchmarkWaits(b *testing.B) {
	const waiters = 1000
	r := newRig(b)
	ctx := b.Context()
	_, err := r.store.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("wake", nil)}})
	require.NoError(b, err)
	wake := func(key string, wait func(ready func()) time.Time, write func()) []time.Duration {
		var ready, done sync.WaitGroup
		ready.Add(waiters)
		done.Add(waiters)
		at := make([]time.Time, waiters)
		for i := range waiters {
			go func() {
				defer done.Done()
				at[i] = wait(ready.Done)
			}()
		}
		ready.Wait()
		<-time.After(300 * time.Millisecond) // all Waits are blocked
		begin := time.Now()
		write()
		done.Wait()
		out := make([]time.Duration, waiters)
		for i := range at {
			out[i] = at[i].Sub(begin)
		}
		_ = key
		return out
	}
	worst := func(d []time.Duration) time.Duration { return time.Duration(compare.QuantileOf(d, 0.99)) }
	mine := compare.Side{Name: "waits", Once: func() time.Duration {
		s, err := r.store.Snapshot(ctx, "wake")
		require.NoError(b, err)
		return worst(wake("wake", func(ready func()) time.Time {
			ready()
			_, err := r.store.Wait(ctx, "wake", s.Revision)
			if err != nil {
				panic(err)
			}
			return time.Now()
		}, func() {
			_, err := r.store.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("wake", nil)}})
			require.NoError(b, err)
		}))
	}}
	theirs := compare.Side{Name: "watches", Once: func() time.Duration {
		return worst(wake("/raw/wake", func(ready func()) time.Time {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			w := r.raw.Watch(ctx, "/raw/wake", clientv3.WithCreatedNotify())
			<-w
			ready()
			<-w
			return time.Now()
		}, func() {
			_, err := r.raw.Put(ctx, "/raw/wake", "")
			require.NoError(b, err)
		}))
	}}
	mine.Once()
	theirs.Once()
	before := runtime.NumGoroutine()
	for range 20 {
		_, err := r.store.NewSession(ctx, dcs.SessionOptions{})
		require.NoError(b, err)
	}
	b.ReportMetric(float64(runtime.NumGoroutine()-before)/20, "goroutines/session")
	compare.Versus(b, 0.5, 10, 1, mine, theirs)
}

// BenchmarkFaults puts 30 times, with at most 3 s a call, while one of three members is
// faulty. The vendor's client does the same. It reports the number of failed calls, the
// slowest call, and the moment of the last failure.
func BenchmarkFaults(b *testing.B) {
	for _, fault := range []string{"frozen", "half-healthy"} {
		for _, leads := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/leads=%v", fault, leads), func(b *testing.B) { benchmarkFault(b, fault, leads) })
		}
	}
}

func benchmarkFault(b *testing.B, fault string, leads bool) {
	r := newRig(b)
	i := r.cluster.Leader(b.Context())
	if !leads {
		i = (i + 1) % 3
	}
	puts := map[string]func(ctx context.Context, n int) error{
		"holdfast": func(ctx context.Context, n int) error {
			_, err := r.store.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put(fmt.Sprint("k", n), nil)}})
			return err
		},
		"clientv3": func(ctx context.Context, n int) error {
			_, err := r.raw.Put(ctx, fmt.Sprint("/raw/k", n), "")
			return err
		},
	}
	var heal func() error
	if fault == "frozen" {
		thaw, err := r.cluster.Servers()[i].Process().Freeze()
		require.NoError(b, err)
		heal = func() error { thaw(); return nil }
	} else {
		var err error
		if heal, err = r.cluster.Partition(i); err != nil {
			b.Skip(err)
		}
	}
	compare.PutWhile(b, puts)
	require.NoError(b, heal())
}
