package kvtree

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// A tree keeps no record of stopped Watches, whether their prefix
// changed or not.
func TestWatchLeavesNothing(t *testing.T) {
	tr := New()
	for i := range 10 {
		w := tr.Watch(fmt.Sprint("quiet/", i))
		w.Moved()
		w.Moved() // counts once
		require.Len(t, tr.waiters, 1)
		w.Stop()
		w.Stop() // does nothing
		require.Empty(t, tr.waiters)
		require.Nil(t, w.Moved(), "a stopped Watch adds no waiter")
		require.Empty(t, tr.waiters)
	}
	tr.Watch("never asked").Stop()
	w := tr.Watch("k")
	for rev := range dcs.Revision(3) {
		moved := w.Moved()
		require.False(t, isClosed(moved))
		put(t, tr, rev+1, dcs.Put("k", nil))
		require.True(t, isClosed(moved))
	}
	w.Stop()
	require.Empty(t, tr.waiters)
}

// A Watch that is stopped leaves the other Watches of its prefix alone.
func TestWatchesOfOnePrefix(t *testing.T) {
	tr := New()
	a, b, late := tr.Watch("k"), tr.Watch("k"), tr.Watch("k")
	moved := a.Moved()
	b.Moved()
	b.Stop()
	require.False(t, isClosed(moved))
	put(t, tr, 1, dcs.Put("k", nil))
	require.True(t, isClosed(moved))
	next := late.Moved()
	a.Stop() // it has not called Moved since the change
	put(t, tr, 2, dcs.Put("k", nil))
	require.True(t, isClosed(next))
	late.Stop()
	require.Empty(t, tr.waiters)
}
