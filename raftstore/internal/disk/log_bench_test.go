package disk_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
)

// BenchmarkAppend appends batches of 1 and of 64 entries of 1 KiB in a directory
// of the machine.
func BenchmarkAppend(b *testing.B) {
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprintf("entries=%d", n), func(b *testing.B) {
			l, _, err := disk.OpenLog(disk.LogOptions{Files: disk.OS{}, Dir: b.TempDir(), Life: logLife})
			require.NoError(b, err)
			defer l.Close()
			b.ReportAllocs()
			b.SetBytes(int64(n) << 10)
			batch := logEntries(1, uint64(n), 1, 1024)
			for range b.N {
				require.NoError(b, l.Append(batch))
				for _, e := range batch {
					e.Index += uint64(n)
				}
				if last := l.Last(); last%(1<<14) == 0 {
					require.NoError(b, l.CutFront(last-1))
				}
			}
		})
	}
}
