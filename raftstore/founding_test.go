package raftstore

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// modelNode is a node at its first start, with the content of its disk and the answers
// that it has received and not yet used.
type modelNode struct {
	id    string
	up    bool
	disk  disk.Identity
	votes bool // the first entry is in its log
	heard map[string]introReply
}

// model is the first start of a cluster, with every order of steps, crashes
// between them and losses of disks that a seed chooses.
type model struct {
	t     *testing.T
	rand  *rand.Rand
	peers []Peer
	nodes []*modelNode
	wiped int
	// drawn are the incarnations that ever were on a disk, with their founders.
	drawn map[disk.Incarnation]map[string]disk.Life
	// fresh are the lives that have been seen without an incarnation.
	fresh map[disk.Life]bool
}

func newModel(t *testing.T, seed uint64) *model {
	m := &model{
		t: t, rand: rand.New(rand.NewPCG(seed, 14)),
		drawn: map[disk.Incarnation]map[string]disk.Life{}, fresh: map[disk.Life]bool{},
	}
	for _, id := range []string{"a", "b", "c"} {
		m.peers = append(m.peers, Peer{ID: id, Addr: id + ":1"})
	}
	for _, p := range m.peers {
		n := &modelNode{id: p.ID}
		m.nodes = append(m.nodes, n)
		m.wipe(n)
	}
	return m
}

func (m *model) wipe(n *modelNode) {
	owner := Config{ID: n.id, Root: "r", Peers: m.peers}.owner()
	n.disk, n.heard, n.up, n.votes = disk.Identity{Owner: owner, Life: disk.NewLife()}, nil, false, false
	m.fresh[n.disk.Life] = true
}

// answer returns the present answer of a node to another one.
func (n *modelNode) answer() introReply {
	a := introReply{peer: transport.Hello{ID: n.id, Life: n.disk.Life, Incarnation: n.disk.Incarnation}}
	a.said = setupMessage{Standing: standingFresh, Founders: n.disk.Founders, FounderAddrs: n.disk.Addrs, Peers: n.disk.Members}
	if !n.disk.Incarnation.IsZero() {
		a.said.Standing = standingJoining
		if n.disk.IsFounder() {
			a.said.Standing = standingFounding
		}
		if n.votes {
			a.said.Standing = standingMember
		}
	}
	return a
}

// step makes one node act, crash, lose its disk or receive an answer.
func (m *model) step(losses int) {
	n := m.nodes[m.rand.IntN(len(m.nodes))]
	switch {
	case !n.up:
		n.up, n.heard = true, nil
	case m.rand.IntN(12) == 0:
		n.up = false // a crash; the disk stays
	case m.rand.IntN(12) == 0 && m.wiped < losses:
		m.wiped++
		m.wipe(n)
	case n.heard == nil:
		n.heard = map[string]introReply{}
		for _, other := range m.nodes {
			switch {
			case other == n:
			case !other.up || m.rand.IntN(6) == 0:
				n.heard[other.id] = introReply{err: errors.New("connection refused")}
			default:
				n.heard[other.id] = other.answer()
			}
		}
	default: // perhaps long after it has received the answers
		m.act(n)
		n.heard = nil
	}
}

func (m *model) act(n *modelNode) {
	if !n.disk.Incarnation.IsZero() {
		n.votes = n.votes || n.disk.IsFounder() && allFounded(n.disk, n.heard) == nil
		return
	}
	next, err := firstStart(n.disk, m.peers, n.heard)
	if err != nil {
		return
	}
	require.Equal(m.t, n.disk.Life, next.Life)
	if founders, known := m.drawn[next.Incarnation]; known {
		require.Equal(m.t, founders, next.Founders)
	} else {
		require.Equal(m.t, "a", n.id, "drawn by another node than the first")
		require.ElementsMatch(m.t, []string{"a", "b", "c"}, slices.Collect(maps.Keys(next.Founders)))
		for id, life := range next.Founders {
			require.True(m.t, m.fresh[life], "the life of %s has not been seen without data", id)
		}
		m.drawn[next.Incarnation] = next.Founders
	}
	n.disk = next
}

// voters counts the founders of each incarnation that vote. No other node votes in it.
func (m *model) voters() map[disk.Incarnation]int {
	count := map[disk.Incarnation]int{}
	for _, n := range m.nodes {
		if n.votes {
			count[n.disk.Incarnation]++
		}
	}
	return count
}

// A cluster is founded once, in any order in which nodes act, receive answers,
// crash and lose their disks.
func TestClusterIsFoundedOnce(t *testing.T) {
	for seed := range uint64(1000) {
		m := newModel(t, seed)
		elected := map[disk.Incarnation]bool{} // those that a majority could vote in
		for range 120 {
			m.step(int(seed % 3))
			for i, n := range m.voters() {
				if n >= 2 {
					elected[i] = true
				}
			}
			require.LessOrEqual(t, len(elected), 1, "seed %d: two clusters", seed)
		}
		if seed%3 == 0 {
			require.LessOrEqual(t, len(m.drawn), 1, "seed %d", seed)
		}
	}
}

// A founder votes only when every node has stored the incarnation. Otherwise it and
// another founder could acknowledge commits, lose their data, and be founded again with
// the third node, which has never heard of the cluster.
func TestFounderWaitsForEveryNode(t *testing.T) {
	m := newModel(t, 1)
	a, b, c := m.nodes[0], m.nodes[1], m.nodes[2]
	hear := func(n *modelNode) {
		n.heard = map[string]introReply{}
		for _, other := range m.nodes {
			if other != n {
				n.heard[other.id] = other.answer()
			}
		}
	}
	take := func(n *modelNode) {
		hear(n)
		m.act(n)
	}
	take(a)
	take(b)
	require.True(t, a.disk.IsFounder() && b.disk.IsFounder())
	take(a)
	require.False(t, a.votes, "c knows of no cluster")
	require.ErrorContains(t, allFounded(a.disk, a.heard), "a, b are present, waiting for c (c:1)")
	take(c)
	take(a)
	require.True(t, a.votes)
	hear(b)
	b.heard["c"] = introReply{err: errors.New("connection refused")}
	m.act(b)
	require.True(t, b.votes, "a has seen all of them")
}

// Without losses every first start completes, even after crashes.
func TestFirstStartEnds(t *testing.T) {
	for seed := range uint64(200) {
		m := newModel(t, seed)
		for range 60 {
			m.step(0)
		}
		for range 4 {
			for _, n := range m.nodes {
				n.up, n.heard = true, map[string]introReply{}
				for _, other := range m.nodes {
					if other != n {
						other.up = true
						n.heard[other.id] = other.answer()
					}
				}
				m.act(n)
			}
		}
		require.Equal(t, map[disk.Incarnation]int{m.nodes[0].disk.Incarnation: 3}, m.voters(), "seed %d", seed)
	}
}

// The error of the first start names the missing nodes and their addresses.
func TestFirstStartNamesMissingNodes(t *testing.T) {
	m := newModel(t, 1)
	a, b := m.nodes[0], m.nodes[1]
	for _, tc := range []struct {
		own   *modelNode
		heard map[string]introReply
		want  string
	}{
		{a, nil, "a is present, waiting for b (b:1), c (c:1): start every node of Peers once"},
		{a, map[string]introReply{"b": b.answer(), "c": {err: errors.New("x")}}, "a, b are present, waiting for c (c:1)"},
		{b, map[string]introReply{"a": a.answer(), "c": m.nodes[2].answer()}, "which node a must begin"},
	} {
		_, err := firstStart(tc.own.disk, m.peers, tc.heard)
		require.ErrorContains(t, err, tc.want)
	}
	other := b.answer()
	other.said.Peers = []string{"b", "c", "d"}
	_, err := firstStart(a.disk, m.peers, map[string]introReply{"b": other, "c": m.nodes[2].answer()})
	require.ErrorContains(t, err, "b (b:1), whose Peers has b, c, d and not a, b, c")
	left := b.answer()
	left.said.Standing = standingLost
	_, err = firstStart(a.disk, m.peers, map[string]introReply{"b": left, "c": m.nodes[2].answer()})
	require.ErrorContains(t, err, "b (b:1), which has data (lost)")
}

// A node that hears of two incarnations takes that of the nodes with a leader, or none.
func TestTwoIncarnationsAreHeardOf(t *testing.T) {
	m := newModel(t, 1)
	c := m.nodes[2].disk
	a, b := m.nodes[0].answer(), m.nodes[1].answer()
	a.peer.Incarnation, b.peer.Incarnation = disk.Incarnation{1}, disk.Incarnation{2}
	_, err := firstStart(c, m.peers, map[string]introReply{"a": a, "b": b})
	require.ErrorContains(t, err, "different incarnations of the cluster: a has 01")
	b.said.Leader = "b"
	own, err := firstStart(c, m.peers, map[string]introReply{"a": a, "b": b})
	require.NoError(t, err)
	require.Equal(t, disk.Incarnation{2}, own.Incarnation)
}

// No node votes before all nodes were seen. The errors of calls and Status name the
// missing one.
func TestFirstStartWaitsForEveryNode(t *testing.T) {
	tc := &testCluster{t: t, config: clusterConfigs(t, 3), node: make([]*Backend, 3)}
	tc.hooks = []hooks{testHooks(), testHooks(), testHooks()}
	t.Cleanup(tc.stopAll)
	tc.start(0)
	tc.start(1)
	want := fmt.Sprintf("a, b are present, waiting for c (%s)", tc.config[2].Peers[2].Addr)
	for i, b := range tc.node[:2] {
		tc.eventually(func() bool {
			short, cancel := contextFor(100 * time.Millisecond)
			defer cancel()
			_, err := b.Get(short, "k")
			require.ErrorIs(t, err, dcs.ErrUnavailable)
			return err != nil && containsAll(err.Error(), "waits for its first start", want)
		}, "the error does not name the missing node")
		require.Nil(t, b.node.member(), "node %d takes part", i)
		s := b.Status()
		require.Equal(t, Waiting, s.Health.State)
		require.ErrorContains(t, s.Health.Err, want)
		require.Positive(t, s.Health.Since)
		require.Empty(t, s.Incarnation)
		require.NotEmpty(t, s.Life)
		tc.stop(i) // and again, because no written data prevent its start
		tc.start(i)
	}
	tc.start(2)
	rev, err := tc.node[0].Commit(testCtx(t), dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
	require.NoError(t, err)
	for _, b := range tc.node {
		e, err := b.Get(testCtx(t), "k")
		require.NoError(t, err)
		require.Equal(t, rev, e.Created)
		s := b.Status()
		require.Equal(t, tc.node[0].Status().Incarnation, s.Incarnation)
		require.Len(t, s.Incarnation, 32)
		require.Equal(t, Well, s.Health.State)
		require.NoError(t, s.Health.Err)
		require.Len(t, s.Voters, 3)
	}
}

func containsAll(s string, parts ...string) bool {
	for _, p := range parts {
		if !strings.Contains(s, p) {
			return false
		}
	}
	return true
}

// All founders begin with the same entry.
func TestFoundersWriteTheSameEntry(t *testing.T) {
	tc := newTestCluster(t, 3, nil)
	tc.leader()
	var first *raft.Log
	for _, b := range tc.node {
		tc.eventually(func() bool { return b.node.member() != nil }, "the node is no member")
		var l raft.Log
		require.NoError(t, b.node.member().store.GetLog(1, &l))
		l.AppendedAt = time.Time{}
		if first == nil {
			first = &l
		}
		require.Equal(t, first, &l)
		tc.eventually(func() bool {
			return b.node.state.Incarnation() == [16]byte(b.node.net.Greeting().Incarnation)
		}, "the state has another incarnation")
	}
}

// blockedFiles blocks every goroutine that opens a file with that name, while armed.
type blockedFiles struct {
	disk.FS
	name    string
	armed   atomic.Bool
	blocked chan struct{} // closed when an Open is blocked
	release chan struct{}
	once    sync.Once
}

func (f *blockedFiles) Open(path string) (disk.File, error) {
	if f.armed.Load() && strings.Contains(path, f.name) {
		f.once.Do(func() { close(f.blocked) })
		<-f.release
	}
	return f.FS.Open(path)
}

// A disk that hangs while a node starts Raft does not delay Close.
func TestCloseWhileTheDiskHangsAtTheFirstStart(t *testing.T) {
	files := &blockedFiles{FS: disk.OS{}, name: "vote", blocked: make(chan struct{}), release: make(chan struct{})}
	tc := &testCluster{t: t, config: clusterConfigs(t, 3), node: make([]*Backend, 3)}
	tc.hooks = []hooks{testHooks(), testHooks(), testHooks()}
	tc.hooks[0].files = files
	t.Cleanup(tc.stopAll)
	b := tc.start(0)
	files.armed.Store(true)
	tc.start(1)
	tc.start(2)
	<-files.blocked
	tc.node[0] = nil
	begun := dcs.Now()
	require.ErrorIs(t, b.Close(), errHung)
	require.Less(t, begun.Elapsed(), 2*shutdownBound+shutdownBound)
	close(files.release)
	b.node.running.Wait()
}
