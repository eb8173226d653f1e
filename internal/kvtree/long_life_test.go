package kvtree

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// heap returns the bytes in use after a collection.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Many Watches, of quiet prefixes and of keys that come and go with their leases, leave no
// memory behind. The slow profile makes a million.
func TestWatchesStayFlat(t *testing.T) {
	count := 50_000
	if os.Getenv("HOLDFAST_PROFILE") == "slow" {
		count = 1_000_000
	}
	tr := New()
	tr.maxMoved = 1000
	var rev dcs.Revision
	watches := func(n int) {
		for range n / 2 {
			rev += 2
			quiet, busy := tr.Watch(fmt.Sprint("quiet/", rev)), tr.Watch(fmt.Sprint("busy/", rev))
			quiet.Moved()
			moved := busy.Moved()
			lease := dcs.LeaseID(fmt.Sprint(rev))
			tr.Grant(lease)
			_ = tr.Commit(rev, dcs.Txn{Then: []dcs.Write{dcs.PutLeased(fmt.Sprint("busy/", rev), nil, lease)}}, Options{})
			<-moved
			tr.EndLease(rev+1, lease)
			busy.Stop()
			quiet.Stop()
		}
	}
	watches(count / 10)
	before := heap()
	watches(count)
	require.Less(t, heap(), before+64<<10)
	require.Empty(t, tr.waiters)
	require.Equal(t, rev+1, tr.Revision())
}

// An entry that stays keeps none of the entries in memory that were written with it.
func TestFollowPinsNothing(t *testing.T) {
	tr := New()
	batches := func(from, to int) {
		for i := from; i < to; i++ {
			batch := make([]dcs.Entry, 500)
			for j := range batch {
				batch[j] = dcs.Entry{Key: fmt.Sprint("changes/", j), Value: fmt.Append(nil, i)}
			}
			batch[0].Key = fmt.Sprint("stays/", i)
			tr.Follow(dcs.Revision(i+1), batch, nil)
		}
	}
	batches(0, 10)
	before := heap()
	batches(10, 100)
	require.Less(t, heap(), before+256<<10)
	require.Len(t, tr.Snapshot("stays").Entries, 100)
}
