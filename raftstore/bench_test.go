package raftstore

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
)

// steady prevents elections on a loaded machine.
func steady(_ int, c *Config, _ *hooks) { c.HeartbeatTimeout = 3 * time.Second }

// BenchmarkCommit compares commits through the leader's backend with bare
// raft.Apply on the same nodes, log stores and state machine, in turns. The bare
// entries write the same keys, so that the state machine has the same work to do and
// ratio shows the cost of forwarding, numbering and contexts. The target is at least
// 0.9. For ratio-ignored the bare entries have the same length and the state machine
// ignores them.
func BenchmarkCommit(b *testing.B) {
	tc := newTestCluster(b, 3, steady)
	leader := tc.node[tc.leader()]
	for _, writers := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) { benchmarkCommit(b, leader, writers) })
	}
}

func benchmarkCommit(b *testing.B, leader *Backend, writers int) {
	ctx := context.Background()
	txn := func(w int) dcs.Txn {
		return dcs.Txn{Then: []dcs.Write{dcs.Put(fmt.Sprintf("bench/%d", w), make([]byte, 100))}}
	}
	s, o := leader.newClient(ctx)
	require.NoError(b, o.err)
	apply := func(c *state.Command) error { return leader.node.member().raft.Apply(c.Encode(), 0).Error() }
	kinds := []func(w int) error{
		func(w int) error { _, err := leader.Commit(ctx, txn(w)); return err },
		func(w int) error {
			seq, low, err := s.begin(ctx, nil)
			if err != nil {
				return err
			}
			defer s.end(seq)
			return apply(&state.Command{Kind: state.KindTxn, Client: s.id, Seq: seq, Low: low, Txn: txn(w)})
		},
		func(w int) error {
			return apply(&state.Command{Kind: state.KindExpire, Leases: []dcs.LeaseID{dcs.LeaseID(make([]byte, 120))}})
		},
	}
	// Short turns, so that all kinds run on the same load of the machine.
	turn := min(b.N, max(256, 8*writers))
	took := make([][]float64, len(kinds))
	for i := range max(3, b.N/turn) {
		for j := range kinds {
			k := (i + j) % len(kinds)
			took[k] = append(took[k], inParallel(writers, turn, kinds[k]).Seconds())
		}
	}
	median := func(of func(i int) float64) float64 {
		list := make([]float64, len(took[0]))
		for i := range list {
			list[i] = of(i)
		}
		slices.Sort(list)
		return list[len(list)/2]
	}
	b.ReportMetric(0, "ns/op") // of all kinds together: of no use
	b.ReportMetric(median(func(i int) float64 { return float64(turn) / took[0][i] }), "commits/s")
	b.ReportMetric(median(func(i int) float64 { return float64(turn) / took[1][i] }), "raw-commits/s")
	b.ReportMetric(median(func(i int) float64 { return took[1][i] / took[0][i] }), "ratio")
	b.ReportMetric(median(func(i int) float64 { return took[2][i] / took[0][i] }), "ratio-ignored")
}

// inParallel runs f n times from so many goroutines and returns the time.
func inParallel(goroutines, n int, f func(w int) error) time.Duration {
	begun := time.Now()
	var wg sync.WaitGroup
	for w := range goroutines {
		wg.Go(func() {
			for i := w; i < n; i += goroutines {
				if err := f(w); err != nil {
					panic(err)
				}
			}
		})
	}
	wg.Wait()
	return time.Since(begun)
}

// BenchmarkRenew compares a renewal on the leader with raw VerifyLeader, which
// is not safe, and one on a follower with a bare round trip. Targets: at most
// 2.5 times VerifyLeader, at most 2 round trips, no durable write.
func BenchmarkRenew(b *testing.B) {
	tc := newTestCluster(b, 3, steady)
	l := tc.leader()
	ctx := context.Background()
	writes := func() (n uint64) {
		for _, node := range tc.node {
			n += node.Status().Disk.Writes
		}
		return n
	}
	b.Run("leader", func(b *testing.B) {
		leader := tc.node[l]
		lease, _, err := leader.Grant(ctx, time.Hour)
		require.NoError(b, err)
		tc.settled() // the grant is on every disk
		before := writes()
		verify, renew := inTurns(b,
			func() error { return leader.node.member().raft.VerifyLeader().Error() },
			func() error { _, err := lease.Renew(ctx, "some/key"); return err })
		report(b, "verify", verify, renew, writes()-before)
	})
	b.Run("follower", func(b *testing.B) {
		follower := tc.node[tc.follower()]
		addr := tc.node[l].node.wireAddr()
		lease, _, err := follower.Grant(ctx, time.Hour)
		require.NoError(b, err)
		tc.settled() // the grant is on every disk
		before := writes()
		trip, renew := inTurns(b,
			func() error { _, err := follower.node.net.Call(ctx, addr, opQuestion, nil); return err },
			func() error { _, err := lease.Renew(ctx, "some/key"); return err })
		report(b, "round-trip", trip, renew, writes()-before)
	})
}

func inTurns(b *testing.B, one, two func() error) (p50one, p50two time.Duration) {
	b.Helper()
	var times [2][]time.Duration
	b.ReportAllocs()
	for range b.N {
		for i, f := range []func() error{one, two} {
			begun := time.Now()
			if err := f(); err != nil {
				b.Fatal(err)
			}
			times[i] = append(times[i], time.Since(begun))
		}
	}
	for i := range times {
		slices.Sort(times[i])
	}
	return times[0][len(times[0])/2], times[1][len(times[1])/2]
}

func report(b *testing.B, name string, base, renew time.Duration, writes uint64) {
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(base.Nanoseconds()), name+"-p50-ns")
	b.ReportMetric(float64(renew.Nanoseconds()), "renew-p50-ns")
	b.ReportMetric(float64(renew)/float64(base), "ratio")
	b.ReportMetric(float64(writes)/float64(b.N), "fsyncs/op")
}
