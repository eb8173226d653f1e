package zookeeper

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// fill makes n keys below a root, or removes them.
func fill(t *testing.T, c *zk.Conn, root string, n int, remove bool) {
	all := zk.WorldACL(zk.PermAll)
	for _, path := range append(parents(root+"/members/0"), root+"/members") {
		if _, err := c.Create(path, parentValue, 0, all); !errors.Is(err, zk.ErrNodeExists) {
			require.NoError(t, err)
		}
	}
	var ops []any
	for i := range n {
		path := fmt.Sprintf("%s/members/member-%05d", root, i)
		if remove {
			ops = append(ops, &zk.DeleteRequest{Path: path, Version: -1})
		} else {
			ops = append(ops, &zk.CreateRequest{Path: path, Data: []byte(`{"role":"replica","state":"running"}`), Acl: all})
		}
		if len(ops) == 500 || i == n-1 {
			_, err := c.Multi(ops...)
			require.NoError(t, err)
			ops = nil
		}
	}
}

// A tree of ten thousand keys is read and watched in about the time that its
// transfer takes, also while keys are created and deleted.
func TestManyKeys(t *testing.T) {
	t.Run("Today", func(t *testing.T) { manyKeysAt(t, 10_000, false) })
	t.Run("BeforeZooKeeper36", func(t *testing.T) { manyKeysAt(t, 2_000, true) })
}

func manyKeysAt(t *testing.T, manyKeys int, older bool) {
	s := newSuite(t).fresh(t)
	root := "/" + s.Root
	s.admin(t, func(c *zk.Conn) {
		fill(t, c, root, manyKeys, false)
		b := ours(t, s, nil)
		for _, addr := range s.Endpoints {
			b.servers.Note(addr, older)
		}
		timed := func(what string, f func()) {
			began := time.Now()
			f()
			t.Logf("%s: %v", what, time.Since(began).Round(time.Millisecond))
		}
		snapshot := func() (got dcs.Snapshot) {
			got, err := b.Snapshot(budget(t), "")
			require.NoError(t, err)
			require.GreaterOrEqual(t, len(got.Entries), manyKeys)
			return got
		}
		timed("first Snapshot", func() { snapshot() })
		timed("second Snapshot", func() { snapshot() })
		var now dcs.Snapshot
		var err error
		timed("first Wait", func() { now, err = b.Wait(budget(t), "", 0) })
		require.NoError(t, err)
		require.GreaterOrEqual(t, len(now.Entries), manyKeys)

		// One key is created and deleted twenty times a second.
		stop, churning := make(chan struct{}), sync.WaitGroup{}
		churning.Add(1)
		go func() {
			defer churning.Done()
			tick := time.NewTicker(25 * time.Millisecond)
			defer tick.Stop()
			for i := 0; ; i++ {
				path := fmt.Sprintf("%s/members/member-%05d", root, manyKeys+i)
				_, _ = c.Create(path, []byte("x"), 0, zk.WorldACL(zk.PermAll))
				<-tick.C
				_ = c.Delete(path, -1)
				select {
				case <-stop:
					return
				case <-tick.C:
				}
			}
		}()
		for range 3 {
			timed("Snapshot while a key comes and goes", func() { snapshot() })
		}
		waits := 0
		for began := time.Now(); time.Since(began) < 2*time.Second; waits++ {
			before := time.Now()
			now, err = b.Wait(budget(t), "", now.Revision)
			require.NoError(t, err)
			require.Less(t, time.Since(before), time.Second)
		}
		t.Logf("%d Waits in 2 s", waits)
		require.Greater(t, waits, 2)
		close(stop)
		churning.Wait()

		timed("deletion by the server", func() { fill(t, c, root, manyKeys, true) })
		timed("until a Wait sees it", func() {
			for len(now.Entries) > 0 {
				now, err = b.Wait(budget(t), "", now.Revision)
				require.NoError(t, err)
			}
		})
	})
}

// The writes of one transaction are seen together, in a tree that is too large
// to read at once, and while it also creates and deletes nodes.
func TestLargeTreeIsOfOneMoment(t *testing.T) {
	for name, older := range map[string]bool{"Today": false, "BeforeZooKeeper36": true} {
		t.Run(name, func(t *testing.T) {
			s := newSuite(t).fresh(t)
			root := "/" + s.Root
			s.admin(t, func(c *zk.Conn) {
				const size = 700
				fill(t, c, root, size, false)
				b := ours(t, s, nil)
				for _, addr := range s.Endpoints {
					b.servers.Note(addr, older)
				}
				path := func(i int) string { return fmt.Sprintf("%s/members/member-%05d", root, i) }
				all := zk.WorldACL(zk.PermAll)
				stop, writing := make(chan struct{}), sync.WaitGroup{}
				writing.Add(1)
				go func() { // the first, the last and a temporary node always have the same value
					defer writing.Done()
					for i := 0; ; i++ {
						select {
						case <-stop:
							return
						case <-time.After(5 * time.Millisecond):
						}
						value := fmt.Append(nil, i)
						ops := []any{
							&zk.SetDataRequest{Path: path(0), Data: value, Version: -1},
							&zk.SetDataRequest{Path: path(size - 1), Data: value, Version: -1},
							&zk.CreateRequest{Path: path(size + i), Data: value, Acl: all},
						}
						if i > 0 {
							ops = append(ops, &zk.DeleteRequest{Path: path(size + i - 1), Version: -1})
						}
						_, _ = c.Multi(ops...)
					}
				}()
				defer func() { close(stop); writing.Wait() }()
				check := func(got dcs.Snapshot) {
					first, _ := got.Get("members/member-00000")
					last, _ := got.Get(fmt.Sprintf("members/member-%05d", size-1))
					require.Equal(t, first.Modified, last.Modified)
					require.LessOrEqual(t, first.Modified, got.Revision)
					if string(first.Value) == string(last.Value) && len(first.Value) < 10 { // the writer has begun
						require.Len(t, got.Entries, size+1)
						passing := got.Entries[size]
						require.Equal(t, string(first.Value), string(passing.Value))
					}
				}
				var now dcs.Snapshot
				seen := dcs.Revision(0)
				for began := time.Now(); time.Since(began) < time.Second; {
					got, err := b.Snapshot(budget(t), "")
					require.NoError(t, err)
					check(got)
					require.GreaterOrEqual(t, got.Revision, seen)
					now, err = b.Wait(budget(t), "", now.Revision)
					require.NoError(t, err)
					check(now)
					seen = max(got.Revision, now.Revision)
				}
			})
		})
	}
}

// A list of nodes that is longer than MaxBuffer fails at once with an error
// that names the node, the size and the setting, and no server is blamed. The
// client library alone would end each connection on which such a list is
// answered.
func TestListAboveMaxBuffer(t *testing.T) {
	s := newSuite(t).fresh(t)
	root := "/" + s.Root
	s.admin(t, func(c *zk.Conn) {
		fill(t, c, root, 0, false)
		all := zk.WorldACL(zk.PermAll)
		var ops []any
		const nodes = 2_500
		for i := range nodes {
			ops = append(ops, &zk.CreateRequest{Path: fmt.Sprintf("%s/members/%0450d", root, i), Acl: all})
			if len(ops) == 500 {
				_, err := c.Multi(ops...)
				require.NoError(t, err)
				ops = nil
			}
		}
		var ejected atomic.Int64
		small := ours(t, s, func(c *Config) {
			c.MaxBuffer = 1 << 20
			c.Observer.Endpoint = func(ev dcs.EndpointEvent) {
				if ev.Change == dcs.Ejected {
					ejected.Add(1)
				}
			}
		})
		began := time.Now()
		_, err := small.Snapshot(budget(t), "")
		_, waited := small.Wait(budget(t), "", 0)
		require.Less(t, time.Since(began), suiteTiming.RetryTimeout/2)
		for _, err := range []error{err, waited} {
			require.ErrorIs(t, err, dcs.ErrUnavailable)
			require.ErrorContains(t, err, root+"/members has 11")
			require.ErrorContains(t, err, "max_buffer")
		}
		require.Zero(t, ejected.Load())

		b := ours(t, s, nil)
		got, err := b.Snapshot(budget(t), "")
		require.NoError(t, err)
		require.Len(t, got.Entries, nodes)
		got, err = b.Wait(budget(t), "", 0)
		require.NoError(t, err)
		require.Len(t, got.Entries, nodes)
	})
}
