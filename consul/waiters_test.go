package consul

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
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

// plainClient returns a client of the tree of s. received counts the bytes of its watch.
func (s *suite) plainClient(t *testing.T) (b *Backend, received *atomic.Int64) {
	received = new(atomic.Int64)
	c := Config{Endpoints: s.Endpoints, Root: s.Root, Node: suiteNode, MinTTL: time.Second, Timing: suiteTiming, Resolver: s.Resolver()}
	b, err := newBackend(c, hooks{transport: func(r roundTripper) roundTripper { return countedQueries{r, received} }})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return b, received
}

// fill writes a tree that is large enough for two readings a second to be its bound, and
// returns its size in an answer.
func (s *suite) fill(t *testing.T, b *Backend) (size int64) {
	for from := 0; from < 150; from += 50 {
		var writes []dcs.Write
		for i := range 50 {
			writes = append(writes, dcs.Put(fmt.Sprintf("k%04d", from+i), make([]byte, 100)))
		}
		_, err := b.Commit(budget(t), dcs.Txn{Then: writes})
		require.NoError(t, err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.Cluster.Servers()[0].Direct()+"/v1/kv/"+s.Root+"/?recurse", http.NoBody)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	size, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	require.Greater(t, size, int64(pollLeast/pollTrees))
	return size
}

// commits commits 25 times a second, and returns the duration of each Commit.
func commits(t *testing.T, b *Backend, span time.Duration) (took []time.Duration) {
	tick := time.NewTicker(40 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(span); time.Now().Before(end); <-tick.C {
		begin := time.Now()
		_, err := b.Commit(budget(t), dcs.Txn{Then: []dcs.Write{dcs.Put("busy", nil)}})
		require.NoError(t, err)
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
func TestCommitsWithManyWaiters(t *testing.T) {
	if os.Getenv("HOLDFAST_PROFILE") != "slow" {
		t.Skip("runs in the slow profile only: it takes a minute, and compares latencies")
	}
	const waiters = 50
	watched, alone := newSuite(t), newSuite(t)
	if watched.Cluster == nil {
		t.Skip("the servers are the user's own")
	}
	writer, _ := watched.plainClient(t)
	control, _ := alone.plainClient(t)
	tree := watched.fill(t, writer)
	alone.fill(t, control)

	ctx, stop := context.WithCancel(t.Context())
	var idle sync.WaitGroup
	defer idle.Wait()
	defer stop()
	var received []*atomic.Int64
	for range waiters {
		b, n := watched.plainClient(t)
		s, err := b.Wait(budget(t), "idle", 0)
		require.NoError(t, err)
		received = append(received, n)
		idle.Go(func() {
			for ctx.Err() == nil { // a Wait may end early, but not with a change
				if later, err := b.Wait(ctx, "idle", s.Revision); err == nil {
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
		without = append(without, commits(t, control, span)...)
		burst = append(burst, commits(t, writer, warm)...)
		with = append(with, commits(t, writer, span)...)
		<-time.After(longestPoll) // until the waiters have read the last state
	}
	most := int64(0)
	for i, n := range received {
		most = max(most, n.Load()-before[i])
	}
	limit := pollBurst + int64(time.Since(begin).Seconds()*pollTrees*float64(tree)) + 4*tree
	t.Logf("a tree of %d bytes and %d Commits to it: a waiter received at most %d bytes in %v, the limit is %d", tree, len(with)+len(burst), most, time.Since(begin).Round(time.Millisecond), limit)
	t.Logf("p95 of a Commit: %v with %d waiters, %v without, %v while they read each change", p95(with), waiters, p95(without), p95(burst))
	require.LessOrEqual(t, most, limit)
	require.Greater(t, int64(len(with)+len(burst))*tree, limit, "there must be more Commits than a waiter may see")
	require.LessOrEqual(t, p95(with), 3*p95(without))
}
