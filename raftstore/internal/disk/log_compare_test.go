package disk_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
)

// BenchmarkAppendCompared appends batches of 1 and of 64 entries of 1 KiB, in
// turns with raft-wal. ratio compares the medians: below 1, raft-wal takes
// longer. It goes when raft-wal does; the decision about the log has its figures.
func BenchmarkAppendCompared(b *testing.B) {
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprintf("entries=%d", n), func(b *testing.B) { compareAppend(b, n) })
	}
}

func compareAppend(b *testing.B, n int) {
	l, _, err := disk.OpenLog(disk.LogOptions{Files: disk.OS{}, Dir: b.TempDir(), Life: logLife})
	require.NoError(b, err)
	defer l.Close()
	w, err := wal.Open(b.TempDir(), wal.WithSegmentSize(16<<20))
	require.NoError(b, err)
	defer w.Close()
	stores := []func([]*raft.Log) error{l.Append, w.StoreLogs}
	var took [2][]float64
	for i := range b.N {
		batch := logEntries(uint64(i*n+1), uint64(i*n+n), 1, 1024)
		for j := range stores {
			k := (i + j) % 2
			begun := time.Now()
			require.NoError(b, stores[k](batch))
			took[k] = append(took[k], float64(time.Since(begun).Microseconds()))
		}
		if last := l.Last(); last%(1<<14) == 0 { // a snapshot was made
			require.NoError(b, l.CutFront(last-1))
			require.NoError(b, w.DeleteRange(1, last-8192))
		}
	}
	for k := range took {
		slices.Sort(took[k])
	}
	of := func(k int, q float64) float64 { return took[k][int(q*float64(len(took[k])-1))] }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(of(0, 0.5), "p50-us")
	b.ReportMetric(of(1, 0.5), "raft-wal-p50-us")
	b.ReportMetric(of(0, 0.9), "p90-us")
	b.ReportMetric(of(1, 0.9), "raft-wal-p90-us")
	b.ReportMetric(of(0, 0.5)/of(1, 0.5), "ratio")
}
