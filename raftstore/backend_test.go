package raftstore

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance/fault"
	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// testCluster is a few nodes of one cluster in this process, over real sockets
// and disks.
type testCluster struct {
	t      testing.TB
	config []Config
	hooks  []hooks
	node   []*Backend // nil where a node is down
}

// testTiming keeps tests short and leaves a loaded machine some room.
var testTiming = dcs.Timing{TTL: 11 * time.Second, LoopWait: time.Second, RetryTimeout: 5 * time.Second}

// loopback is the address of the nodes. No connection of another program begins there
// and occupies the port of a node that is stopped.
var loopback = fault.Loopback().Addr()

// reserved has the addresses that tests have reserved.
var reserved sync.Map

// reserveAddr returns an address that was free a moment ago, and another one each time.
func reserveAddr(t testing.TB) string {
	t.Helper()
	for {
		ln, err := net.Listen("tcp", net.JoinHostPort(loopback, "0"))
		require.NoError(t, err)
		addr := ln.Addr().String()
		ln.Close()
		if _, again := reserved.LoadOrStore(addr, true); !again {
			return addr
		}
	}
}

func clusterConfigs(t testing.TB, size int) []Config {
	t.Helper()
	dir := t.TempDir()
	var peers []Peer
	for i := range size {
		peers = append(peers, Peer{ID: string(rune('a' + i)), Addr: reserveAddr(t)})
	}
	var configs []Config
	for _, p := range peers {
		configs = append(configs, Config{
			ID: p.ID, Dir: filepath.Join(dir, p.ID), Root: "test", Peers: peers,
			Timing: testTiming, HeartbeatTimeout: 250 * time.Millisecond, MinTTL: minMinTTL,
		})
	}
	return configs
}

// newTestCluster starts size nodes. change may first alter the parts of each.
func newTestCluster(t testing.TB, size int, change func(i int, c *Config, h *hooks)) *testCluster {
	t.Helper()
	tc := &testCluster{t: t, config: clusterConfigs(t, size), node: make([]*Backend, size)}
	for i := range size {
		h := testHooks()
		if change != nil {
			change(i, &tc.config[i], &h)
		}
		tc.hooks = append(tc.hooks, h)
	}
	t.Cleanup(tc.stopAll)
	for i := range size {
		tc.start(i)
	}
	return tc
}

func (tc *testCluster) start(i int) *Backend {
	tc.t.Helper()
	b, err := newBackend(tc.config[i], tc.hooks[i])
	require.NoError(tc.t, err)
	tc.node[i] = b
	return b
}

func (tc *testCluster) stop(i int) {
	if b := tc.node[i]; b != nil {
		tc.node[i] = nil
		if err := b.Close(); err != nil {
			tc.t.Errorf("close of node %d: %v", i, err)
		}
	}
}

func (tc *testCluster) stopAll() {
	for i := range tc.node {
		tc.stop(i)
	}
}

// leader waits for a node that leads and whose term is open.
func (tc *testCluster) leader() int {
	tc.t.Helper()
	at := -1
	tc.eventually(func() bool {
		for i, b := range tc.node {
			if b == nil {
				continue
			}
			if term := b.node.leading(); term != 0 && b.node.opened(term) {
				at = i
				return true
			}
		}
		return false
	}, "no leader")
	return at
}

// opened reports whether this node confirms in that term.
func (n *node) opened(number uint64) bool {
	n.lead.mu.Lock()
	defer n.lead.mu.Unlock()
	t := n.lead.current
	return t != nil && t.number == number && t.leases != nil
}

// eventually waits until other goroutines have made cond true.
func (tc *testCluster) eventually(cond func() bool, msg string) {
	tc.t.Helper()
	require.Eventually(tc.t, cond, 20*time.Second, 2*time.Millisecond, msg)
}

// well waits until all nodes take part.
func (tc *testCluster) well() {
	tc.t.Helper()
	for _, b := range tc.node {
		tc.eventually(func() bool { return b.Status().Health.State == Well }, "a node does not take part")
	}
}

func (tc *testCluster) follower() int {
	l := tc.leader()
	for i, b := range tc.node {
		if b != nil && i != l {
			return i
		}
	}
	tc.t.Fatal("no follower")
	return -1
}

// places bounds the number of parallel tests that run at the same time. Each has a
// cluster, which needs enough time on a processor to hold no election.
var places = make(chan struct{}, 3)

// parallel runs t with other tests that mostly wait, after those that measure.
func parallel(t *testing.T) {
	t.Helper()
	t.Parallel()
	places <- struct{}{}
	t.Cleanup(func() { <-places }) // after the nodes are closed
}

func testCtx(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func contextFor(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}

func TestOneNode(t *testing.T) {
	tc := newTestCluster(t, 1, nil)
	exercise(t, tc.node[0])
}

func TestThreeNodesServeFromEach(t *testing.T) {
	tc := newTestCluster(t, 3, nil)
	for i, b := range tc.node {
		t.Run(fmt.Sprint(i), func(t *testing.T) { exercise(t, b) })
	}
}

// exercise calls every method once and checks the result.
func exercise(t *testing.T, b *Backend) {
	ctx := testCtx(t)
	root := "x" + fmt.Sprint(time.Now().UnixNano()) + "/"
	lease, granted, err := b.Grant(ctx, 2*time.Second)
	require.NoError(t, err)
	require.Equal(t, 2*time.Second, granted.TTL)

	first, err := b.Commit(ctx, dcs.Txn{
		If:   []dcs.Cond{dcs.Absent(root + "lock")},
		Then: []dcs.Write{dcs.PutLeased(root+"lock", []byte("me"), lease.ID()), dcs.Put(root+"other", nil)},
	})
	require.NoError(t, err)
	e, err := b.Get(ctx, root+"lock")
	require.NoError(t, err)
	require.Equal(t, dcs.Entry{Key: root + "lock", Value: []byte("me"), Created: first, Modified: first, Lease: lease.ID()}, e)

	_, err = b.Commit(ctx, dcs.Txn{If: []dcs.Cond{dcs.Absent(root + "lock")}, Then: []dcs.Write{dcs.Delete(root + "lock")}})
	require.ErrorIs(t, err, dcs.ErrConflict)
	var typed *dcs.Error
	require.ErrorAs(t, err, &typed)
	require.Equal(t, &e, typed.Current)

	renewed, err := lease.Renew(ctx, root+"lock", root+"gone")
	require.NoError(t, err)
	require.Equal(t, []dcs.Entry{e}, renewed.Entries)
	require.True(t, granted.From.Before(renewed.From))

	s, err := b.Snapshot(ctx, root[:len(root)-1])
	require.NoError(t, err)
	require.Len(t, s.Entries, 2)
	require.GreaterOrEqual(t, s.Revision, first)

	type answer struct {
		s   dcs.Snapshot
		err error
	}
	waited := make(chan answer, 1)
	go func() {
		s, err := b.Wait(ctx, root+"lock", s.Revision)
		waited <- answer{s, err}
	}()
	require.NoError(t, lease.Revoke(ctx))
	a := <-waited
	require.NoError(t, a.err)
	require.Empty(t, a.s.Entries)

	_, err = lease.Renew(ctx)
	require.ErrorIs(t, err, dcs.ErrLost)
	require.NoError(t, lease.Revoke(ctx))
	_, err = b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.PutLeased(root+"lock", nil, lease.ID())}})
	require.ErrorIs(t, err, dcs.ErrLost)
	_, err = b.Get(ctx, root+"lock")
	require.ErrorIs(t, err, dcs.ErrNotFound)
	_, err = b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put(root+"other/below", nil)}})
	require.ErrorIs(t, err, dcs.ErrInvalid)
}

// wireAddr returns the address at which other nodes call this one.
func (n *node) wireAddr() string { return transport.LifeAddr(n.net.Addr(), n.net.Greeting().Life) }
