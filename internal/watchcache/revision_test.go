package watchcache

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// A Snapshot is not older than an answer from before it started. It is not read again
// because of a revision that another call has returned in the meantime, because it
// would never end under constant writes.
func TestSnapshotEndsUnderWrites(t *testing.T) {
	var f MinRevision
	f.Raise(7)
	reads := 0
	read := func() (dcs.Snapshot, string, error) {
		reads++
		at := f.Load()
		if reads == 1 {
			at-- // a server that lags
		}
		f.Raise(f.Load() + 10) // the answer to a concurrent Get
		if reads > 5 {
			return dcs.Snapshot{}, "m1", errors.New("the minimum rises with every read")
		}
		return dcs.Snapshot{Revision: at}, "m1", nil
	}
	s, err := f.Snapshot("b", "", read)
	require.NoError(t, err)
	require.Equal(t, dcs.Revision(17), s.Revision)
	require.Equal(t, 2, reads, "the first read was older than an answer from before the call")
	require.Equal(t, dcs.Revision(27), f.Load())
}
