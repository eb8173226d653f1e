package zookeeper

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// mirrored returns a client of f, whose tree has size keys.
func mirrored(t *testing.T, f *fakeServer, size int) *Backend {
	for _, parent := range []string{"/r", "/r/members"} {
		f.put(parent, parentValue)
	}
	for i := range size {
		f.put(fmt.Sprintf("/r/members/%04d", i), []byte("first"))
	}
	return f.client(t)
}

func (f *fakeServer) client(t *testing.T) *Backend {
	b, err := New(Config{
		Endpoints: []string{f.addr}, Root: "r", Timing: suiteTiming,
		Tick: 2 * time.Second, MinTTL: 4 * time.Second, MaxTTL: time.Minute, MaxBuffer: 1 << 20,
	})
	require.NoError(t, err)
	t.Cleanup(func() { b.Close() })
	return b
}

// isOfOneMoment compares a Snapshot with the server's tree at its revision.
func (f *fakeServer) isOfOneMoment(s dcs.Snapshot) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	want := f.history[int64(s.Revision)]
	require.NotNil(f.t, want, s.Revision)
	got := map[string]string{}
	for _, e := range s.Entries {
		got["/r/"+e.Key] = string(e.Value)
	}
	require.Equal(f.t, want, got, "the tree at revision %d", s.Revision)
}

// A large tree that changes in every possible way with each answer is read in
// its state at one revision, from a current server and from an older one.
func TestMirrorIsOfOneMoment(t *testing.T) {
	for name, old := range map[string]bool{"Today": false, "BeforeZooKeeper36": true} {
		t.Run(name, func(t *testing.T) {
			f := newFakeServer(t)
			f.old = old
			const size = largeTree + 200
			b := mirrored(t, f, size)
			f.put("/r/foreign", nil) // a parent of another program, or a key
			f.put("/r/both", []byte("a key when nothing is below it"))
			passing := []string{"/r/foreign/a", "/r/both/b"}
			if old {
				// No event names the first node below a key: each key would need a
				// second watch.
				passing = passing[:1]
			}
			random := rand.New(rand.NewPCG(1, 2))
			change := func() {
				path := fmt.Sprintf("/r/members/%04d", random.IntN(size+50))
				switch _, there := f.nodes[path]; {
				case random.IntN(4) == 0:
					path = passing[random.IntN(len(passing))]
					if _, there := f.nodes[path]; there {
						f.removeLocked(path)
						return
					}
					f.putLocked(path, []byte("below"))
				case there && random.IntN(2) == 0:
					f.removeLocked(path)
				default:
					f.putLocked(path, fmt.Append(nil, f.zxid))
				}
			}
			left := 0
			f.mu.Lock()
			f.read = func() {
				if left > 0 {
					left--
					change()
				}
			}
			f.mu.Unlock()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			var now dcs.Snapshot
			for range 20 {
				f.mu.Lock()
				left = 10
				f.mu.Unlock()
				one, cancel := context.WithTimeout(ctx, suiteTiming.RetryTimeout)
				s, err := b.Snapshot(one, "")
				cancel()
				require.NoError(t, err)
				f.isOfOneMoment(s)
				f.mu.Lock()
				change()
				f.mu.Unlock()
				now, err = b.Wait(ctx, "", now.Revision)
				require.NoError(t, err)
				f.isOfOneMoment(now)
			}
			older, _ := b.servers.Of(f.addr)
			require.Equal(t, old, older)
		})
	}
}

// Many Snapshots of a large tree at once do not make as many connections.
func TestSnapshotsShareFewConnections(t *testing.T) {
	f := newFakeServer(t)
	b := mirrored(t, f, largeTree+1)
	var most atomic.Int64
	f.mu.Lock()
	f.read = func() { most.Store(max(most.Load(), int64(len(f.whole)))) }
	f.mu.Unlock()
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), suiteTiming.RetryTimeout)
			defer cancel()
			s, err := b.Snapshot(ctx, "")
			if assert.NoError(t, err) {
				assert.Len(t, s.Entries, largeTree+1)
			}
		})
	}
	all.Wait()
	// The server may hear of a connection's end a moment after the client.
	require.Less(t, most.Load(), int64(3*mostMirrors))
}

// Values that are too large together are read in smaller parts. A single value
// that is too large is an error that names its node.
func TestLargeValuesAreReadInParts(t *testing.T) {
	f := newFakeServer(t)
	b := mirrored(t, f, largeTree)
	f.put("/r/large", parentValue)
	for i := range 20 {
		f.put(fmt.Sprintf("/r/large/%d", i), make([]byte, 100<<10))
	}
	s, err := b.Snapshot(budget(t), "")
	require.NoError(t, err)
	require.Len(t, s.Entries, largeTree+20)
	s, err = b.Wait(budget(t), "", 0)
	require.NoError(t, err)
	require.Len(t, s.Entries, largeTree+20)

	f.put("/r/members/9999", make([]byte, 1<<20))
	for _, read := range []func() (dcs.Snapshot, error){
		func() (dcs.Snapshot, error) { return b.Snapshot(budget(t), "") },
		func() (dcs.Snapshot, error) { return b.Wait(budget(t), "", s.Revision) },
	} {
		_, err = read()
		require.ErrorIs(t, err, dcs.ErrUnavailable)
		require.ErrorContains(t, err, "/r/members/9999 has 1048")
		require.ErrorContains(t, err, "max_buffer")
	}
}
