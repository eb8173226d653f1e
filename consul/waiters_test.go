package consul

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/dcs"
)

// countedQueries counts the bytes of the answers to blocking queries.
type countedQueries struct {
	http.RoundTripper
	bytes *atomic.Int64
}

func (c countedQueries) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := c.RoundTripper.RoundTrip(r)
	if err == nil && r.URL.Query().Has("index") {
		resp.Body = countedBody{resp.Body, c.bytes}
	}
	return resp, err
}

// A countedBody counts the bytes that are read from it.
type countedBody struct {
	io.ReadCloser
	bytes *atomic.Int64
}

func (b countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.bytes.Add(int64(n))
	return n, err
}

// one returns the context of one call.
func one(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(tb.Context(), suiteTiming.RetryTimeout)
	tb.Cleanup(cancel)
	return ctx
}

// plainClient returns a client of the tree of s. received counts the bytes of its watch.
func (s *suite) plainClient(tb testing.TB, o dcs.Observer) (b *Backend, received *atomic.Int64) {
	received = new(atomic.Int64)
	c := Config{Endpoints: s.Endpoints, Root: s.Root, Node: suiteNode, MinTTL: time.Second, Timing: suiteTiming, Resolver: s.Resolver(), Observer: o}
	b, err := newBackend(c, hooks{transport: func(r roundTripper) roundTripper { return countedQueries{r, received} }})
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, b.Close()) })
	return b, received
}

// fill writes a tree of n keys, and returns its size in an answer.
func (s *suite) fill(tb testing.TB, b *Backend, n int) (size int64) {
	for from := 0; from < n; from += 50 {
		var writes []dcs.Write
		for i := range 50 {
			writes = append(writes, dcs.Put(fmt.Sprintf("k%05d", from+i), make([]byte, 100)))
		}
		_, err := b.Commit(one(tb), dcs.Txn{Then: writes})
		require.NoError(tb, err)
	}
	r, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, "http://"+s.Cluster.Servers()[0].Direct()+"/v1/kv/"+s.Root+"/?recurse", http.NoBody)
	require.NoError(tb, err)
	resp, err := http.DefaultClient.Do(r)
	require.NoError(tb, err)
	defer resp.Body.Close()
	size, err = io.Copy(io.Discard, resp.Body)
	require.NoError(tb, err)
	return size
}

// commits commits every pause, and returns the duration of each Commit.
func commits(tb testing.TB, b *Backend, span, pause time.Duration) (took []time.Duration) {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for end := time.Now().Add(span); time.Now().Before(end); <-tick.C {
		begin := time.Now()
		_, err := b.Commit(one(tb), dcs.Txn{Then: []dcs.Write{dcs.Put("busy", nil)}})
		require.NoError(tb, err)
		took = append(took, time.Since(begin))
	}
	return took
}

func p95(took []time.Duration) time.Duration {
	slices.Sort(took)
	return took[len(took)*95/100]
}

// waitersCost is the cost of many waiters on one tree.
type waitersCost struct {
	with, without  []time.Duration // of Commits
	changes, limit int64           // bytes of all changes, and those that a waiter may receive
}

// manyWaiters measures Commits to a tree with 50 waiters and to an equal one without a waiter,
// in turns. Each Commit ends the blocking queries of all clients, which are answered with the
// whole tree. An idle waiter must nevertheless receive at most two trees a second after its
// burst.
func manyWaiters(tb testing.TB) (cost waitersCost) {
	const waiters, keys = 50, 150
	watched, alone := newSuite(tb), newSuite(tb)
	if watched.Cluster == nil {
		tb.Skip("the servers are the user's own")
	}
	writer, _ := watched.plainClient(tb, dcs.Observer{})
	control, _ := alone.plainClient(tb, dcs.Observer{})
	tree := watched.fill(tb, writer, keys)
	require.Greater(tb, tree, int64(pollLeast/pollTrees), "two readings a second must be the bound")
	alone.fill(tb, control, keys)

	ctx, stop := context.WithCancel(tb.Context())
	var idle sync.WaitGroup
	defer idle.Wait()
	defer stop()
	var received []*atomic.Int64
	for range waiters {
		waiter, n := watched.plainClient(tb, dcs.Observer{})
		s, err := waiter.Wait(one(tb), "idle", 0)
		require.NoError(tb, err)
		received = append(received, n)
		idle.Go(func() { waitOn(ctx, waiter, s) })
	}
	var burst []time.Duration
	begin, before := time.Now(), make([]int64, waiters)
	for i, n := range received {
		before[i] = n.Load()
	}
	const turns, span, warm, pause = 5, 4 * time.Second, 3 * time.Second, 40 * time.Millisecond
	for range turns {
		cost.without = append(cost.without, commits(tb, control, span, pause)...)
		burst = append(burst, commits(tb, writer, warm, pause)...)
		cost.with = append(cost.with, commits(tb, writer, span, pause)...)
		<-time.After(longestPoll) // until the waiters have read the last state
	}
	most := int64(0)
	for i, n := range received {
		most = max(most, n.Load()-before[i])
	}
	cost.limit = pollBurst + int64(time.Since(begin).Seconds()*pollTrees*float64(tree)) + 4*tree
	cost.changes = int64(len(cost.with)+len(burst)) * tree
	tb.Logf("of %d bytes of changes of a tree of %d bytes a waiter received at most %d in %v, the limit is %d", cost.changes, tree, most, time.Since(begin).Round(time.Millisecond), cost.limit)
	tb.Logf("p95 of a Commit: %v with %d waiters, %v without, %v while they read each change", p95(cost.with), waiters, p95(cost.without), p95(burst))
	require.LessOrEqual(tb, most, cost.limit)
	return cost
}

// waitOn waits for changes below "idle" until ctx ends. A Wait may end early, but not with
// a change.
func waitOn(ctx context.Context, b *Backend, s dcs.Snapshot) {
	for ctx.Err() == nil {
		if later, err := b.Wait(ctx, "idle", s.Revision); err == nil {
			s = later
		}
	}
}

// Commits to a tree with 50 waiters take at most three times as long as those to a tree
// without a waiter.
func BenchmarkCommitsWithManyWaiters(b *testing.B) {
	cost := manyWaiters(b)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(p95(cost.with).Microseconds()), "with-µs")
	b.ReportMetric(float64(p95(cost.without).Microseconds()), "without-µs")
	require.Greater(b, cost.changes, cost.limit, "there must be more Commits than a waiter may see")
	require.LessOrEqual(b, p95(cost.with), 3*p95(cost.without))
}

// The bound on the bytes holds on a machine of any speed, unlike that on the latency.
func TestBytesToManyWaiters(t *testing.T) {
	if os.Getenv("HOLDFAST_PROFILE") != "slow" {
		t.Skip("runs in the slow profile only: it takes a minute")
	}
	manyWaiters(t)
}

// Many Commits to a tree of 10,000 keys with a waiter blame no server, although the copy
// of the waiter is always behind the latest revision.
func TestCommitsToALargeTreeBlameNoServer(t *testing.T) {
	if os.Getenv("HOLDFAST_PROFILE") != "slow" {
		t.Skip("runs in the slow profile only: it writes 10,000 keys")
	}
	s := newSuite(t)
	if s.Cluster == nil {
		t.Skip("the servers are the user's own")
	}
	var begun atomic.Bool
	var mu sync.Mutex
	var blamed []dcs.EndpointEvent
	b, _ := s.plainClient(t, dcs.Observer{Endpoint: func(ev dcs.EndpointEvent) {
		mu.Lock()
		defer mu.Unlock()
		if begun.Load() {
			blamed = append(blamed, ev)
		}
	}})
	delayed := conformance.Control(t)
	tree := s.fill(t, b, 10_000)
	seen, err := b.Wait(one(t), "idle", 0)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	var idle sync.WaitGroup
	idle.Go(func() { waitOn(ctx, b, seen) })
	begun.Store(true)
	begin := time.Now()
	took := commits(t, b, 10*time.Second, time.Second/60)
	late := delayed(begin, time.Second)
	stop()
	idle.Wait()
	t.Logf("%d Commits in 10 s to a tree of %d bytes, p95 %v, delays of the machine %v", len(took), tree, p95(took), late)
	require.NoError(t, b.Close())
	mu.Lock()
	defer mu.Unlock()
	if late > time.Second { // on a busy machine servers are silent, or differ in speed
		blamed = slices.DeleteFunc(blamed, func(ev dcs.EndpointEvent) bool {
			return ev.Reason == "much faster" || strings.Contains(ev.Reason, "no answer")
		})
	}
	require.Empty(t, blamed)
}
