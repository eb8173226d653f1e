package remote

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
)

// Where neither the copy nor the store can tell what changed before the copy
// began, the store is asked how it is now: the copy may not have it yet.
func TestWaitFromBeforeTheCopy(t *testing.T) {
	life, end := context.WithCancel(context.Background())
	var f Floor
	var r Replica
	now := dcs.Snapshot{Revision: 20, Entries: []dcs.Entry{{Key: "k", Created: 5, Modified: 5}}}
	still := false
	r.Init(Source{
		Backend: "b", Budget: 5 * time.Second, Life: life, Raise: f.Raise,
		Read:     func(context.Context) (dcs.Snapshot, error) { return now, nil },
		Snapshot: func(context.Context, string) (dcs.Snapshot, error) { return dcs.Snapshot{Revision: 30}, nil },
		Still:    func(context.Context, string, dcs.Revision, map[string]bool) bool { return still },
		Follow:   func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	})
	defer r.Close()
	defer end()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	s, err := r.Wait(ctx, "k", 4)
	require.NoError(t, err)
	require.Len(t, s.Entries, 1, "the copy shows the change")
	s, err = r.Wait(ctx, "k", 10)
	require.NoError(t, err)
	require.Empty(t, s.Entries, "it was deleted, and the copy does not show it")
	still = true
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	_, err = r.Wait(short, "k", 10)
	require.ErrorIs(t, err, context.DeadlineExceeded, "nothing changed")
}

// The watch hears of the servers that are left out, and of no others; the
// user's observer hears of everything.
func TestReplicaObserves(t *testing.T) {
	var r Replica
	r.Init(Source{Budget: time.Second})
	var heard []dcs.EndpointChange
	observe := r.Observer(func(ev dcs.EndpointEvent) { heard = append(heard, ev.Change) })
	all := []dcs.EndpointChange{dcs.Switched, dcs.Ejected, dcs.Restored, dcs.Removed}
	for i, c := range all {
		observe(dcs.EndpointEvent{From: fmt.Sprint("s", i), Change: c})
	}
	require.Equal(t, all, heard)
	require.Len(t, r.Left, 2)
	require.Equal(t, []string{"s1", "s3"}, []string{<-r.Left, <-r.Left})
	r.Observer(nil)(dcs.EndpointEvent{Change: dcs.Switched})
}

// A watch hears only of servers that are left out after it has begun. Its own may
// have been, before.
func TestReplicaForgetsEarlierEjections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Replica
		began := make(chan int, 16)
		life, end := context.WithCancel(t.Context())
		r.Init(Source{Budget: time.Second, Life: life, Follow: func(context.Context) error {
			began <- len(r.Left)
			<-r.Left
			return errors.New("left out")
		}})
		observe := r.Observer(nil)
		for range 20 {
			observe(dcs.EndpointEvent{From: "a", Change: dcs.Ejected})
		}
		short, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		go func() { _, _ = r.Wait(short, "k", 1) }()
		require.Zero(t, <-began)
		synctest.Wait()
		require.Empty(t, began, "the watch was ended by an earlier ejection")
		observe(dcs.EndpointEvent{From: "a", Change: dcs.Ejected})
		require.Zero(t, <-began)
		end()
		observe(dcs.EndpointEvent{From: "a", Change: dcs.Ejected})
		r.Close()
	})
}

// A Wait that has ended leaves nothing in the copy.
func TestReplicaWaitLeavesNothing(t *testing.T) {
	life, end := context.WithCancel(t.Context())
	var f Floor
	var r Replica
	r.Init(Source{
		Backend: "b", Budget: 5 * time.Second, Life: life, Raise: f.Raise,
		Read:   func(context.Context) (dcs.Snapshot, error) { return dcs.Snapshot{Revision: 20}, nil },
		Follow: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	})
	defer r.Close()
	defer end()
	for i := range 10 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		_, err := r.Wait(ctx, fmt.Sprint("quiet/", i), 20)
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
	require.Zero(t, reflect.ValueOf(r.Tree).Elem().FieldByName("waiters").Len(), "prefixes that no Wait watches")
}

// What changed is taken over under its own revision, and nothing under one that
// is not later than the copy's.
func TestReplicaTakesChanges(t *testing.T) {
	entry := func(key string, modified dcs.Revision) dcs.Entry {
		return dcs.Entry{Key: key, Created: 1, Modified: modified}
	}
	var r Replica
	r.Init(Source{Budget: time.Second})
	require.NoError(t, r.Take(10, []dcs.Entry{entry("a", 5), entry("b", 6), entry("d", 7)}), "it is the beginning")
	require.Equal(t, dcs.Revision(10), r.Begins())

	now := []dcs.Entry{entry("a", 5), entry("b", 11), entry("c", 12)}
	wrote, deleted := r.Changes(now)
	require.Equal(t, now[1:], wrote)
	require.Equal(t, []string{"d"}, deleted)
	for _, rev := range []dcs.Revision{0, 9, 10} {
		require.ErrorIs(t, r.Take(rev, now), ErrBehind)
	}
	require.NoError(t, r.Take(9, []dcs.Entry{entry("a", 5), entry("b", 6), entry("d", 7)}), "nothing changed")
	require.Equal(t, dcs.Revision(10), r.Tree.Revision())
	require.NoError(t, r.Take(13, now))
	require.Equal(t, dcs.Snapshot{Revision: 13, Entries: now}, r.Tree.Snapshot(""))
	require.NoError(t, r.Apply(14, nil, []string{"a"}))
	require.Len(t, r.Tree.Snapshot("").Entries, 2)
	require.True(t, r.Tree.MovedSince("a", 13))
	require.False(t, r.Tree.MovedSince("b", 13))
	require.NoError(t, r.Apply(20, nil, nil))
	require.Equal(t, dcs.Revision(20), r.Tree.Revision())
}

// Neither many Waits, nor many watches that fail, leave anything behind.
func TestReplicaStaysFlat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		life, end := context.WithCancel(t.Context())
		var f Floor
		var r Replica
		var rotations atomic.Int64
		r.Init(Source{
			Backend: "b", Budget: 5 * time.Second, Life: life, Raise: f.Raise,
			Follow: func(context.Context) error {
				rev := dcs.Revision(rotations.Add(1))
				if err := r.Take(rev, []dcs.Entry{{Key: "k", Created: 1, Modified: rev}}); err != nil {
					return err
				}
				return errors.New("the server is gone")
			},
		})
		defer r.Close()
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
				_, err := r.Wait(ctx, "k", r.Tree.Revision())
				require.NoError(t, err)
				cancel()
				short, cancel := context.WithTimeout(life, time.Millisecond)
				_, err = r.Wait(short, fmt.Sprint("quiet/", i), r.Tree.Revision())
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

// One change of a large copy costs the path of one key.
func BenchmarkReplicaApply(b *testing.B) {
	for _, keys := range []int{100, 10_000, 100_000} {
		b.Run(fmt.Sprint(keys), func(b *testing.B) {
			var r Replica
			r.Init(Source{Budget: time.Second})
			var all []dcs.Entry
			for i := range keys {
				all = append(all, dcs.Entry{Key: fmt.Sprintf("members/%06d", i), Created: 1, Modified: 1})
			}
			require.NoError(b, r.Take(1, all))
			for rev := dcs.Revision(2); b.Loop(); rev++ {
				e := all[int(rev)%keys]
				e.Modified = rev
				require.NoError(b, r.Apply(rev, []dcs.Entry{e}, nil))
			}
		})
	}
}

// A watch that one server refuses ends no Wait unless all servers refuse. If they
// do not, that server is at fault. A bad certificate is one server's always.
func TestRefusalOfOneServerEndsNoWait(t *testing.T) {
	for name, row := range map[string]struct {
		watch  *Failure
		reads  error // of all servers
		ends   bool
		blames int
	}{
		"one refuses":          {watch: &Failure{Endpoint: "a", Kind: dcs.ErrUnauthorized, Unconfirmed: true, Err: errors.New("denied")}, blames: 1},
		"all refuse":           {watch: &Failure{Endpoint: "a", Kind: dcs.ErrUnauthorized, Unconfirmed: true, Err: errors.New("denied")}, reads: &Failure{Endpoint: "b", Kind: dcs.ErrUnauthorized, Unconfirmed: true, Err: errors.New("denied")}, ends: true},
		"the others are down":  {watch: &Failure{Endpoint: "a", Kind: dcs.ErrUnauthorized, Unconfirmed: true, Err: errors.New("denied")}, reads: errors.New("down")},
		"a certificate is bad": {watch: &Failure{Endpoint: "a", Kind: dcs.ErrUnauthorized, Unreachable: true, Err: errors.New("x509")}},
		"the store's own word": {watch: &Failure{Endpoint: "a", Kind: dcs.ErrUnavailable, Err: errors.New("too large")}, ends: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				life, end := context.WithCancel(t.Context())
				var r Replica
				var f Floor
				reads, watches, blamed := 0, 0, 0
				r.Init(Source{
					Backend: "b", Budget: 5 * time.Second, Life: life, Raise: f.Raise,
					Read: func(context.Context) (dcs.Snapshot, error) {
						if reads++; reads == 1 {
							return dcs.Snapshot{Revision: 20}, nil
						}
						return dcs.Snapshot{Revision: 20}, row.reads
					},
					Blame: func(at, _ string) {
						require.Equal(t, "a", at)
						blamed++
					},
					Follow: func(ctx context.Context) error {
						if watches++; watches == 1 {
							return row.watch
						}
						r.Alive()
						<-ctx.Done()
						return ctx.Err()
					},
				})
				defer r.Close()
				defer end()
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_, err := r.Wait(ctx, "k", 20)
				if row.ends {
					require.Equal(t, row.watch.Kind, dcs.KindOf(err), "%v", err)
				} else {
					require.ErrorIs(t, err, context.DeadlineExceeded)
					require.NotErrorIs(t, err, dcs.ErrUnauthorized)
				}
				require.Equal(t, row.blames, blamed)
			})
		})
	}
}
