package zookeeper

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// A transaction that re-creates keys increments the version of their epoch
// node. No other call may see the old state of a key under the new epoch,
// because ZooKeeper would then accept a condition on its old revision: both
// incarnations have version 0.
func TestCommitIsLearntInOneStep(t *testing.T) {
	b := &Backend{root: "/r"}
	const keys = 64
	var writes []wrote
	for i := range keys {
		writes = append(writes, wrote{dcs.Put(fmt.Sprint("k", i), nil), -1})
	}
	paths := map[string]bool{}
	for _, w := range writes {
		paths[b.epochOf(w.w.Key)] = true
	}
	last := writes[keys-1].w.Key

	// Revision n is written under the epoch n.
	commit := func(n int32) {
		p := &plan{b: b, writes: writes, bumps: paths, at: map[string]int{}}
		var results []zk.MultiResponse
		for path := range paths {
			p.at[path] = len(results)
			results = append(results, zk.MultiResponse{Stat: &zk.Stat{Version: n, Mzxid: int64(n)}})
		}
		p.learn(results)
	}
	commit(1)
	done := make(chan struct{})
	var readers sync.WaitGroup
	var wrong atomic.Int64
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if s, ok := b.known.Of(last); ok && s.modified != dcs.Revision(s.epoch) {
					wrong.Add(1)
				}
			}
		})
	}
	n := int32(2)
	for began := time.Now(); time.Since(began) < 500*time.Millisecond && wrong.Load() == 0; n++ {
		commit(n)
	}
	close(done)
	readers.Wait()
	require.Zero(t, wrong.Load(), "after %d transactions, an old revision under a later epoch", n)
}
