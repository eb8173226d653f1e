package consul

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

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
func (s *suite) plainClient(tb testing.TB) (b *Backend, received *atomic.Int64) {
	received = new(atomic.Int64)
	c := Config{Endpoints: s.Endpoints, Root: s.Root, Node: suiteNode, MinTTL: time.Second, Timing: suiteTiming, Resolver: s.Resolver()}
	b, err := newBackend(c, hooks{transport: func(r roundTripper) roundTripper { return countedQueries{r, received} }})
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, b.Close()) })
	return b, received
}

// fill writes a tree that is large enough for two readings a second to be its bound, and
// returns its size in an answer.
func (s *suite) fill(tb testing.TB, b *Backend) (size int64) {
	for from := 0; from < 150; from += 50 {
		var writes []dcs.Write
		for i := range 50 {
			writes = append(writes, dcs.Put(fmt.Sprintf("k%04d", from+i), make([]byte, 100)))
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
	require.Greater(tb, size, int64(pollLeast/pollTrees))
	return size
}

// commits commits 25 times a second, and returns the duration of each Commit.
func commits(tb testing.TB, b *Backend, span time.Duration) (took []time.Duration) {
	tick := time.NewTicker(40 * time.Millisecond)
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

// Each Commit ends the blocking queries of all clients, which are answered with the whole
// tree. An idle waiter nevertheless receives at most two trees a second after its burst,
// and Commits to a tree with 50 waiters take at most three times as long then as those to
// an equal tree without a waiter, in turns.
func BenchmarkCommitsWithManyWaiters(b *testing.B) {
	const waiters = 50
	watched, alone := newSuite(b), newSuite(b)
	if watched.Cluster == nil {
		b.Skip("the servers are the user's own")
	}
	writer, _ := watched.plainClient(b)
	control, _ := alone.plainClient(b)
	tree := watched.fill(b, writer)
	alone.fill(b, control)

	ctx, stop := context.WithCancel(b.Context())
	var idle sync.WaitGroup
	defer idle.Wait()
	defer stop()
	var received []*atomic.Int64
	for range waiters {
		waiter, n := watched.plainClient(b)
		s, err := waiter.Wait(one(b), "idle", 0)
		require.NoError(b, err)
		received = append(received, n)
		idle.Go(func() {
			for ctx.Err() == nil { // a Wait may end early, but not with a change
				if later, err := waiter.Wait(ctx, "idle", s.Revision); err == nil {
					s = later
				}
			}
		})
	}
	var with, burst, without []time.Duration
	begin, before := time.Now(), make([]int64, waiters)
	for i, n := range received {
		before[i] = n.Load()
	}
	const turns, span, warm = 5, 4 * time.Second, 3 * time.Second
	for range turns {
		without = append(without, commits(b, control, span)...)
		burst = append(burst, commits(b, writer, warm)...)
		with = append(with, commits(b, writer, span)...)
		<-time.After(longestPoll) // until the waiters have read the last state
	}
	most := int64(0)
	for i, n := range received {
		most = max(most, n.Load()-before[i])
	}
	limit := pollBurst + int64(time.Since(begin).Seconds()*pollTrees*float64(tree)) + 4*tree
	b.Logf("a tree of %d bytes and %d Commits to it: a waiter received at most %d bytes in %v, the limit is %d", tree, len(with)+len(burst), most, time.Since(begin).Round(time.Millisecond), limit)
	b.Logf("p95 of a Commit: %v with %d waiters, %v without, %v while they read each change", p95(with), waiters, p95(without), p95(burst))
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(p95(with).Microseconds()), "with-µs")
	b.ReportMetric(float64(p95(without).Microseconds()), "without-µs")
	require.LessOrEqual(b, most, limit)
	require.Greater(b, int64(len(with)+len(burst))*tree, limit, "there must be more Commits than a waiter may see")
	require.LessOrEqual(b, p95(with), 3*p95(without))
}
