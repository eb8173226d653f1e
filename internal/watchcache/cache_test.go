package watchcache

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
)

// If neither the copy nor the store knows whether a key changed before the copy began,
// Wait reads the store, because the copy may not have the change yet.
func TestWaitFromBeforeTheCopy(t *testing.T) {
	life, end := context.WithCancel(context.Background())
	var f MinRevision
	var c Cache
	now := dcs.Snapshot{Revision: 20, Entries: []dcs.Entry{{Key: "k", Created: 5, Modified: 5}}}
	still := false
	c.Init(Source{
		Backend: "b", Budget: 5 * time.Second, Life: life, Raise: f.Raise,
		Read:           func(context.Context) (dcs.Snapshot, error) { return now, nil },
		Snapshot:       func(context.Context, string) (dcs.Snapshot, error) { return dcs.Snapshot{Revision: 30}, nil },
		NoDeletesSince: func(context.Context, string, dcs.Revision, map[string]bool) bool { return still },
		Follow:         func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	})
	defer c.Close()
	defer end()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	s, err := c.Wait(ctx, "k", 4)
	require.NoError(t, err)
	require.Len(t, s.Entries, 1, "the copy has the change")
	s, err = c.Wait(ctx, "k", 10)
	require.NoError(t, err)
	require.Empty(t, s.Entries, "the key was deleted, which the copy does not have yet")
	still = true
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	_, err = c.Wait(short, "k", 10)
	require.ErrorIs(t, err, context.DeadlineExceeded, "nothing changed")
}

// The watch is notified of servers that are ejected or removed, and of no others. The
// user's observer receives every event.
func TestCacheObserves(t *testing.T) {
	var c Cache
	c.Init(Source{Budget: time.Second})
	var changes []dcs.EndpointChange
	observe := c.Observer(func(ev dcs.EndpointEvent) { changes = append(changes, ev.Change) })
	all := []dcs.EndpointChange{dcs.Switched, dcs.Ejected, dcs.Restored, dcs.Removed}
	for i, c := range all {
		observe(dcs.EndpointEvent{From: fmt.Sprint("s", i), Change: c})
	}
	require.Equal(t, all, changes)
	require.Len(t, c.Left, 2)
	require.Equal(t, []string{"s1", "s3"}, []string{<-c.Left, <-c.Left})
	c.Observer(nil)(dcs.EndpointEvent{Change: dcs.Switched})
}

// A watch is not notified of servers that were ejected before it started, because its
// own may be one of them.
func TestCacheForgetsEarlierEjections(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var c Cache
		began := make(chan int, 16)
		life, end := context.WithCancel(t.Context())
		c.Init(Source{Budget: time.Second, Life: life, Follow: func(context.Context) error {
			began <- len(c.Left)
			<-c.Left
			return errors.New("ejected")
		}})
		observe := c.Observer(nil)
		for range 20 {
			observe(dcs.EndpointEvent{From: "a", Change: dcs.Ejected})
		}
		short, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		go func() { _, _ = c.Wait(short, "k", 1) }()
		require.Zero(t, <-began)
		synctest.Wait()
		require.Empty(t, began, "the watch was ended by an earlier ejection")
		observe(dcs.EndpointEvent{From: "a", Change: dcs.Ejected})
		require.Zero(t, <-began)
		end()
		observe(dcs.EndpointEvent{From: "a", Change: dcs.Ejected})
		c.Close()
	})
}

// A Wait that has ended leaves no waiter in the copy.
func TestCacheWaitLeavesNothing(t *testing.T) {
	life, end := context.WithCancel(t.Context())
	var f MinRevision
	var c Cache
	c.Init(Source{
		Backend: "b", Budget: 5 * time.Second, Life: life, Raise: f.Raise,
		Read:   func(context.Context) (dcs.Snapshot, error) { return dcs.Snapshot{Revision: 20}, nil },
		Follow: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	})
	defer c.Close()
	defer end()
	for i := range 10 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		_, err := c.Wait(ctx, fmt.Sprint("quiet/", i), 20)
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
	require.Zero(t, reflect.ValueOf(c.Tree).Elem().FieldByName("waiters").Len(), "waiters that no Wait uses")
}

// Changes are applied under their own revision, and never under one that is not later
// than the copy's.
func TestCacheTakesChanges(t *testing.T) {
	entry := func(key string, modified dcs.Revision) dcs.Entry {
		return dcs.Entry{Key: key, Created: 1, Modified: modified}
	}
	var c Cache
	c.Init(Source{Budget: time.Second})
	require.NoError(t, c.Take(10, []dcs.Entry{entry("a", 5), entry("b", 6), entry("d", 7)}), "the first tree")
	require.Equal(t, dcs.Revision(10), c.Begins())

	now := []dcs.Entry{entry("a", 5), entry("b", 11), entry("c", 12)}
	wrote, deleted := c.Changes(now)
	require.Equal(t, now[1:], wrote)
	require.Equal(t, []string{"d"}, deleted)
	for _, rev := range []dcs.Revision{0, 9, 10} {
		require.ErrorIs(t, c.Take(rev, now), ErrBehind)
	}
	require.NoError(t, c.Take(9, []dcs.Entry{entry("a", 5), entry("b", 6), entry("d", 7)}), "nothing changed")
	require.Equal(t, dcs.Revision(10), c.Tree.Revision())
	require.NoError(t, c.Take(13, now))
	require.Equal(t, dcs.Snapshot{Revision: 13, Entries: now}, c.Tree.Snapshot(""))
	require.NoError(t, c.Apply(14, nil, []string{"a"}))
	require.Len(t, c.Tree.Snapshot("").Entries, 2)
	require.True(t, c.Tree.MovedSince("a", 13))
	require.False(t, c.Tree.MovedSince("b", 13))
	require.NoError(t, c.Apply(20, nil, nil))
	require.Equal(t, dcs.Revision(20), c.Tree.Revision())
}

// Many Waits and many failed watches leave no goroutine and no memory behind.
func TestCacheStaysFlat(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		life, end := context.WithCancel(t.Context())
		var f MinRevision
		var c Cache
		var rotations atomic.Int64
		c.Init(Source{
			Backend: "b", Budget: 5 * time.Second, Life: life, Raise: f.Raise,
			Follow: func(context.Context) error {
				rev := dcs.Revision(rotations.Add(1))
				if err := c.Take(rev, []dcs.Entry{{Key: "k", Created: 1, Modified: rev}}); err != nil {
					return err
				}
				return errors.New("the server has failed")
			},
		})
		defer c.Close()
		defer end()
		measure := func() (heap uint64, goroutines int) {
			synctest.Wait()
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc, runtime.NumGoroutine()
		}
		rounds := func(n int) {
			for i := range n {
				ctx, cancel := context.WithTimeout(life, time.Second)
				_, err := c.Wait(ctx, "k", c.Tree.Revision())
				require.NoError(t, err)
				cancel()
				short, cancel := context.WithTimeout(life, time.Millisecond)
				_, err = c.Wait(short, fmt.Sprint("quiet/", i), c.Tree.Revision())
				require.ErrorIs(t, err, context.DeadlineExceeded)
				cancel()
			}
		}
		rounds(1000)
		heap, goroutines := measure()
		rounds(10_000)
		after, running := measure()
		require.LessOrEqual(t, running, goroutines)
		require.Less(t, after, heap+256<<10)
		require.Greater(t, rotations.Load(), int64(10_000))
	})
}

// largeCopy returns a copy of that many keys, and the keys.
func largeCopy(tb testing.TB, keys int) (*Cache, []dcs.Entry) {
	tb.Helper()
	c := new(Cache)
	c.Init(Source{Budget: time.Second})
	var all []dcs.Entry
	for i := range keys {
		all = append(all, dcs.Entry{Key: fmt.Sprintf("members/%06d", i), Created: 1, Modified: 1})
	}
	require.NoError(tb, c.Take(1, all))
	return c, all
}

// A change of a large copy allocates only the path of one key.
func TestChangeOfALargeCopyIsSmall(t *testing.T) {
	const keys, changes = 100_000, 100
	c, all := largeCopy(t, keys)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range changes {
		e := all[i*keys/changes]
		e.Modified = dcs.Revision(i + 2)
		require.NoError(t, c.Apply(e.Modified, []dcs.Entry{e}, nil))
	}
	runtime.ReadMemStats(&after)
	each := (after.TotalAlloc - before.TotalAlloc) / changes
	t.Logf("%d bytes a change", each)
	require.Less(t, each, uint64(32<<10), "a copy of the list of keys alone has a megabyte")
}

func BenchmarkCacheApply(b *testing.B) {
	for _, keys := range []int{100, 10_000, 100_000} {
		b.Run(fmt.Sprint(keys), func(b *testing.B) {
			c, all := largeCopy(b, keys)
			for rev := dcs.Revision(2); b.Loop(); rev++ {
				e := all[int(rev)%keys]
				e.Modified = rev
				require.NoError(b, c.Apply(rev, []dcs.Entry{e}, nil))
			}
		})
	}
}
