package zookeeper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
	"github.com/holdfast-dcs/holdfast/internal/testcluster/compare"
)

// benchTiming has the default times, so that nothing expires while a benchmark
// runs.
var benchTiming = dcs.Timing{TTL: 30 * time.Second, LoopWait: 10 * time.Second, RetryTimeout: 10 * time.Second}

// rig is three servers with a client of this package and one of the vendor's
// library.
type rig struct {
	cluster *testcluster.Cluster
	store   *dcs.Store
	raw     *zk.Conn
}

func newRig(b *testing.B) *rig {
	b.Helper()
	c := testcluster.New(b, testcluster.Options{Kind: testcluster.ZooKeeper})
	r := &rig{cluster: c, store: client(b, c)}
	r.raw = vendor(b, r.store)
	_, err := r.raw.Create("/raw", nil, 0, zk.WorldACL(zk.PermAll))
	require.NoError(b, err)
	for range 500 { // warm up both clients and the servers' compiler
		_, err := r.store.Commit(b.Context(), dcs.Txn{Then: []dcs.Write{dcs.Put("warm", nil)}})
		require.NoError(b, err)
		_, err = r.raw.Set("/raw", nil, -1)
		require.NoError(b, err)
	}
	return r
}

func client(b *testing.B, c *testcluster.Cluster) *dcs.Store {
	backend, err := New(Config{
		Endpoints: c.Endpoints(), Root: "bench", Timing: benchTiming,
		Tick: testcluster.ZooKeeperTick, MinTTL: 2 * testcluster.ZooKeeperTick, MaxTTL: time.Minute,
	})
	require.NoError(b, err)
	return testcluster.OpenStore(b, backend, benchTiming)
}

// vendor returns a client of the vendor's library as documented, with one
// address: the endpoint that ours uses.
func vendor(b *testing.B, ours *dcs.Store) *zk.Conn {
	_, err := ours.Snapshot(b.Context(), "")
	require.NoError(b, err)
	return library(b, ours.Unwrap().(*Backend).Endpoints()[:1], 10*time.Second)
}

func library(b *testing.B, addrs []string, ttl time.Duration) *zk.Conn {
	c, _, err := zk.Connect(addrs, ttl, zk.WithLogInfo(false), zk.WithLogger(silent{}))
	require.NoError(b, err)
	b.Cleanup(c.Close)
	return c
}

// BenchmarkConfirm compares Confirm with a raw Set. The target is at most 1.3
// times its time, though Confirm also reads the lock.
func BenchmarkConfirm(b *testing.B) {
	r := newRig(b)
	ctx := b.Context()
	s := compare.Session(b, r.store)
	hold, err := s.Acquire(ctx, "confirm", nil)
	require.NoError(b, err)
	confirm := compare.Timed("confirm", func() error { return hold.Confirm(ctx) })
	set := compare.Timed("set", func() error { _, err := r.raw.Set("/raw", []byte("x"), -1); return err })
	for range 200 {
		confirm.Once()
		set.Once()
	}
	compare.Versus(b, 0.5, 20, 50, confirm, set)
}

// rawLock takes the vendor's lock and returns its release function.
func rawLock(c *zk.Conn, key string) func() {
	l := zk.NewLock(c, key, zk.WorldACL(zk.PermAll))
	if err := l.Lock(); err != nil {
		panic(err)
	}
	return func() {
		if err := l.Unlock(); err != nil {
			panic(err)
		}
	}
}

// BenchmarkAcquire compares Acquire with zk.Lock. The target is at most its
// time.
func BenchmarkAcquire(b *testing.B) {
	r := newRig(b)
	compare.Acquiring(b, compare.Session(b, r.store), "zk-lock", func() func() { return rawLock(r.raw, "/raw/lock") })
}

// BenchmarkHandover measures the time from the holder's Release to the waiter's
// Acquire. The target is at most that of zk.Lock.
func BenchmarkHandover(b *testing.B) { handover(b, "zk-lock", rawLock) }

// handover compares our hand-overs with those of the vendor's client. lock
// takes the lock of the given name.
func handover(b *testing.B, name string, lock func(c *zk.Conn, key string) (release func())) {
	compare.HandingOver(b, name, func(b *testing.B) ([2]*dcs.Store, func(client, n int) func()) {
		r := newRig(b)
		other := client(b, r.cluster)
		clients := []*zk.Conn{r.raw, vendor(b, other)}
		return [2]*dcs.Store{r.store, other}, func(i, n int) func() { return lock(clients[i], fmt.Sprint("/raw/lock", n)) }
	})
}

// BenchmarkHandoverOfOneNode compares with a lock of the vendor's client that
// is one node of its holder, as ours is, in its simplest form. The waiter of
// zk.Lock has put its node in the queue before, and then only lists the queue.
func BenchmarkHandoverOfOneNode(b *testing.B) { handover(b, "one-node", oneNode) }

// oneNode takes the lock that is the node at path.
func oneNode(c *zk.Conn, path string) (release func()) {
	for {
		_, err := c.Create(path, []byte("x"), zk.FlagEphemeral, zk.WorldACL(zk.PermAll))
		if err == nil {
			return func() {
				if err := c.Delete(path, -1); err != nil {
					panic(err)
				}
			}
		}
		if !errors.Is(err, zk.ErrNodeExists) {
			panic(err)
		}
		there, _, gone, err := c.ExistsW(path)
		if err != nil {
			panic(err)
		}
		if there {
			<-gone
		}
	}
}

// BenchmarkFaults makes 30 writes with one of three servers frozen, with at
// most 3 s a call, and compares with the vendor's client. Both clients are
// connected to that server, which does not lead, and know the others.
func BenchmarkFaults(b *testing.B) {
	r := newRig(b)
	i := (r.cluster.Leader(b.Context()) + 1) % 3
	r.store = startingAt(b, r.cluster, i)
	raw := connecting(b, r.cluster, i)
	for _, put := range puts(r, raw) {
		require.NoError(b, put(b.Context(), 0))
	}
	thaw, err := r.cluster.Servers()[i].Process().Freeze()
	require.NoError(b, err)
	defer thaw()
	compare.PutWhile(b, puts(r, raw))
}

// BenchmarkSilent is like BenchmarkFaults with a server that accepts
// connections and never answers, and clients that try that server first. The
// vendor's client waits 6.7 session timeouts for its handshake, or until the
// server behind the proxy closes a connection without requests (10 s).
func BenchmarkSilent(b *testing.B) {
	r := newRig(b)
	i := (r.cluster.Leader(b.Context()) + 1) % 3
	heal := r.cluster.Servers()[i].Proxy().Silent()
	defer heal()
	r.store = startingAt(b, r.cluster, i)
	compare.PutWhile(b, puts(r, connecting(b, r.cluster, i)))
}

// startingAt returns a client of ours whose calls go to server i first.
func startingAt(b *testing.B, c *testcluster.Cluster, i int) *dcs.Store {
	for {
		s := client(b, c)
		if s.Unwrap().(*Backend).Endpoints()[0] == c.Endpoints()[i] { // the first endpoint is random
			return s
		}
	}
}

// connecting returns a client of the vendor's library with all addresses and a
// session of 3 s. It connects to server i first.
func connecting(b *testing.B, c *testcluster.Cluster, i int) *zk.Conn {
	first := true
	addrs := c.Endpoints()
	raw, _, err := zk.Connect(addrs, 3*time.Second, zk.WithLogInfo(false), zk.WithLogger(silent{}),
		zk.WithDialer(func(network, addr string, timeout time.Duration) (net.Conn, error) {
			if first {
				addr, first = addrs[i], false
			}
			return (&net.Dialer{Timeout: timeout}).DialContext(b.Context(), network, addr)
		}))
	require.NoError(b, err)
	b.Cleanup(raw.Close)
	return raw
}

func puts(r *rig, raw *zk.Conn) map[string]func(ctx context.Context, n int) error {
	return map[string]func(ctx context.Context, n int) error{
		"holdfast": func(ctx context.Context, n int) error {
			_, err := r.store.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put(fmt.Sprint("k", n), nil)}})
			return err
		},
		"go-zookeeper": func(ctx context.Context, n int) error {
			done := make(chan error, 1) // the library does not support contexts
			go func() { _, err := raw.Set("/raw", fmt.Append(nil, n), -1); done <- err }()
			select {
			case err := <-done:
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		},
	}
}
