package testcluster

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/etcd3"
	"github.com/holdfast-dcs/holdfast/internal/backoff"
	"github.com/holdfast-dcs/holdfast/internal/testcluster/compare"
	"github.com/holdfast-dcs/holdfast/raftstore"
)

// TestMain runs the test binary as a node of the embedded store if a cluster has started
// it as one.
func TestMain(m *testing.M) {
	RaftNode{Leads: func(b dcs.Backend) bool {
		s := b.(*raftstore.Backend).Status()
		return s.LeaderID == s.ID
	}}.Main()
	os.Exit(m.Run())
}

// comparisonTiming has a budget that is longer than an election of each store.
var comparisonTiming = dcs.Timing{TTL: 30 * time.Second, LoopWait: 10 * time.Second, RetryTimeout: 5 * time.Second}

// comparison is one store with three servers and its clients.
type comparison struct {
	name    string
	cluster *Cluster
	open    func(endpoints []string) (dcs.Backend, error)
}

// newComparisons starts a cluster of the embedded store, whose clients have no data
// directory, and one of etcd.
func newComparisons(b *testing.B) []*comparison {
	b.Helper()
	return []*comparison{
		{"raftstore", New(b, Options{Kind: Raft, Election: time.Second}), func(endpoints []string) (dcs.Backend, error) {
			return raftstore.NewClient(raftstore.ClientConfig{Endpoints: endpoints, Root: RaftRoot, Timing: comparisonTiming, PlaintextBeyondLoopback: true})
		}},
		{"etcd3", New(b, Options{Kind: Etcd, Election: time.Second}), func(endpoints []string) (dcs.Backend, error) {
			return etcd3.New(etcd3.Config{Endpoints: endpoints, Root: "comparison", Timing: comparisonTiming})
		}},
	}
}

func (s *comparison) client(b *testing.B) dcs.Backend {
	b.Helper()
	c, err := s.open(s.cluster.Endpoints())
	require.NoError(b, err)
	b.Cleanup(func() { c.Close() })
	return c
}

// BenchmarkClientsRenew compares renewals that read a key.
func BenchmarkClientsRenew(b *testing.B) {
	var sides []compare.Side
	for _, s := range newComparisons(b) {
		lease, _, err := s.client(b).Grant(b.Context(), time.Minute)
		require.NoError(b, err)
		side := compare.Timed(s.name, func() error { _, err := lease.Renew(b.Context(), "some/key"); return err })
		for range 200 {
			side.Once()
		}
		sides = append(sides, side)
	}
	compare.Versus(b, 0.5, 20, 50, sides...)
}

// BenchmarkClientsWaits wakes the Waits of 100 clients with one commit, and compares the
// 99th percentile of the times since the commit was sent. Each client has its own
// connections. More clients of etcd would take minutes to start, because a process makes
// few connections at a time.
func BenchmarkClientsWaits(b *testing.B) {
	var sides []compare.Side
	for _, s := range newComparisons(b) {
		w := newAwakened(b, s, 100)
		side := compare.Side{Name: s.name, Once: func() time.Duration { return time.Duration(compare.QuantileOf(w.wake(b), 0.99)) }}
		side.Once()
		sides = append(sides, side)
	}
	compare.Versus(b, 0.5, 20, 1, sides...)
}

// awakened are clients that wait for one key.
type awakened struct {
	writer dcs.Backend
	list   []dcs.Backend
	since  dcs.Revision
}

func newAwakened(b *testing.B, s *comparison, n int) *awakened {
	w := &awakened{writer: s.client(b)}
	for range n {
		w.list = append(w.list, s.client(b))
	}
	var opening sync.WaitGroup
	turn := make(chan struct{}, 16) // limits how many clients connect at a time
	for _, c := range w.list {
		turn <- struct{}{}
		opening.Go(func() {
			defer func() { <-turn }()
			ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
			defer cancel()
			if _, err := c.Wait(ctx, "woken", 0); err != nil {
				b.Errorf("%s: the first Wait: %v", s.name, err)
			}
		})
	}
	opening.Wait()
	w.wake(b)
	return w
}

// wake starts all Waits, writes the key, and returns the times from the write to the end of
// each Wait.
func (w *awakened) wake(b *testing.B) []time.Duration {
	var waiting, woken sync.WaitGroup
	at, took := make([]time.Time, len(w.list)), make([]time.Duration, len(w.list))
	waiting.Add(len(w.list))
	for i, c := range w.list {
		woken.Go(func() {
			waiting.Done()
			if _, err := c.Wait(b.Context(), "woken", max(w.since, 1)); err != nil {
				b.Errorf("a Wait: %v", err)
			}
			at[i] = time.Now()
		})
	}
	waiting.Wait()
	backoff.Sleep(b.Context(), 300*time.Millisecond) // until all Waits have started
	begin := time.Now()
	r, err := w.writer.Commit(b.Context(), dcs.Txn{Then: []dcs.Write{dcs.Put("woken", nil)}})
	require.NoError(b, err)
	woken.Wait()
	for i := range at {
		took[i] = at[i].Sub(begin)
	}
	w.since = r
	return took
}

// BenchmarkClientsFrozen commits 30 times to each store while one of its servers is frozen.
func BenchmarkClientsFrozen(b *testing.B) {
	for _, leads := range []bool{false, true} {
		b.Run(fmt.Sprintf("leads=%t", leads), func(b *testing.B) {
			puts := map[string]func(ctx context.Context, n int) error{}
			for _, s := range newComparisons(b) {
				c := s.client(b)
				put := func(ctx context.Context, n int) error {
					_, err := c.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put(fmt.Sprint("k", n), nil)}})
					return err
				}
				for n := range 200 {
					require.NoError(b, put(b.Context(), n))
				}
				i := s.cluster.Leader(b.Context())
				if !leads {
					i = (i + 1) % 3
				}
				thaw, err := s.cluster.Servers()[i].Process().Freeze()
				require.NoError(b, err)
				defer thaw()
				puts[s.name] = put
			}
			compare.PutWhile(b, puts)
		})
	}
}
