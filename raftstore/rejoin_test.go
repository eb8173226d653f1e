package raftstore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// A node whose data are lost must not vote, because the entries that it acknowledged would
// be lost. These tests empty the directories of real nodes.

// isolate cuts a node off, which looks like a pause to the others. The returned function
// reconnects it.
func (tc *testCluster) isolate(i int) (back func()) {
	n := tc.node[i].node
	isolated := func(reason error) {
		for _, k := range []transport.Kind{transport.KindRaft, transport.KindCall, transport.KindSetup} {
			n.net.Gate(k, reason)
		}
	}
	isolated(errors.New("isolated"))
	return func() { isolated(nil) }
}

// kill stops a node at once, without a transfer of the leadership.
func (tc *testCluster) kill(i int) {
	tc.isolate(i)
	tc.stop(i)
}

// wipe empties the directory of a node that is down.
func (tc *testCluster) wipe(i int) {
	require.NoError(tc.t, os.RemoveAll(tc.config[i].Dir))
}

// noLeader requires that none of these nodes leads for that long.
func (tc *testCluster) noLeader(d time.Duration, nodes ...int) {
	tc.t.Helper()
	for begun := dcs.Now(); begun.Elapsed() < d; time.Sleep(5 * time.Millisecond) {
		for _, i := range nodes {
			require.Zero(tc.t, tc.node[i].node.leading(), "node %d leads", i)
		}
	}
}

// commits makes n commits over a node and returns their revisions by key.
func (tc *testCluster) commits(at, n int, prefix string) map[string]dcs.Revision {
	tc.t.Helper()
	revs := map[string]dcs.Revision{}
	for i := range n {
		key := fmt.Sprintf("%s/%d", prefix, i)
		rev, err := tc.node[at].Commit(testCtx(tc.t), dcs.Txn{Then: []dcs.Write{dcs.Put(key, []byte(key))}})
		require.NoError(tc.t, err)
		revs[key] = rev
	}
	return revs
}

// holds requires that every node has the acknowledged writes.
func (tc *testCluster) holds(revs map[string]dcs.Revision) {
	tc.t.Helper()
	for i, b := range tc.node {
		if b == nil {
			continue
		}
		for key, rev := range revs {
			var e dcs.Entry
			tc.eventually(func() (ok bool) {
				var err error
				e, err = b.Get(testCtx(tc.t), key)
				return err == nil
			}, fmt.Sprintf("node %d does not have %s", i, key))
			require.Equal(tc.t, rev, e.Modified, "node %d, %s", i, key)
		}
	}
}

// leadBy makes the node at lead.
func (tc *testCluster) leadBy(at int) {
	tc.t.Helper()
	tc.eventually(func() bool {
		l := tc.leader()
		if l == at {
			return true
		}
		n := tc.node[l].node
		m := n.member()
		for _, v := range m.currentVoters() {
			if transport.NodeOf(v.id) == tc.config[at].ID {
				_ = m.raft.LeadershipTransferToServer(v.id, "x").Error()
			}
		}
		return false
	}, "leadership is not taken over")
}

// Acknowledged commits are not lost. Nodes a and c acknowledge commits while b is away, c
// loses its data, and a is killed. b and c must not elect a leader. When a is back, all
// commits are present, and c is a voter again.
func TestNodeThatLostItsDataDoesNotVote(t *testing.T) {
	parallel(t)
	tc := newTestCluster(t, 3, nil)
	const a, b, c = 0, 1, 2
	tc.leadBy(a)
	tc.commits(a, 1, "before")
	tc.settled()
	back := tc.isolate(b)
	revs := tc.commits(a, 5, "acknowledged")
	tc.stop(c)
	tc.wipe(c)
	tc.kill(a)
	back()
	tc.start(c)
	tc.noLeader(3*time.Second, b, c)
	tc.start(a)
	tc.holds(revs)
	tc.becomesVoter(c)
	// Its vote counts now, so that the others need no vote of a.
	tc.kill(a)
	revs["after"] = tc.commits(b, 1, "later")["later/0"]
	delete(revs, "after")
	tc.holds(revs)
}

// becomesVoter waits until the leader counts the node's present life as a voter.
func (tc *testCluster) becomesVoter(i int) {
	tc.t.Helper()
	nodes := slices.Clone(tc.node)
	tc.eventually(func() bool {
		own := nodes[i].node.net.ServerID()
		for _, b := range nodes {
			if b == nil || b.node.leading() == 0 {
				continue
			}
			for _, v := range b.node.member().currentVoters() {
				if v.id == own {
					return nodes[i].node.participation.get().standing == standingMember
				}
			}
		}
		return false
	}, "the node does not become a voter again")
}

// The same with a lock. While its holder may rely on it, no other session gets it, and
// tokens rise.
func TestNodeThatLostItsDataGivesNoLockAway(t *testing.T) {
	parallel(t)
	tc := newTestCluster(t, 3, nil)
	const a, b, c = 0, 1, 2
	tc.leadBy(a)
	tc.commits(a, 1, "before")
	tc.settled()
	back := tc.isolate(b)
	tc.commits(a, 8, "more") // so that the token is not a small one
	lease, _, err := tc.node[a].Grant(testCtx(t), 3*time.Second)
	require.NoError(t, err)
	token, err := tc.node[a].Commit(testCtx(t), dcs.Txn{If: []dcs.Cond{dcs.Absent("lock")}, Then: []dcs.Write{dcs.PutLeased("lock", []byte("first"), lease.ID())}})
	require.NoError(t, err)
	held, err := lease.Renew(testCtx(t), "lock")
	require.NoError(t, err)
	tc.stop(c)
	tc.wipe(c)
	let := tc.isolate(a)
	back()
	tc.start(c)
	take := func(at int) (dcs.Revision, error) {
		l, _, err := tc.node[at].Grant(testCtx(t), 3*time.Second)
		if err != nil {
			return 0, err
		}
		return tc.node[at].Commit(testCtx(t), dcs.Txn{If: []dcs.Cond{dcs.Absent("lock")}, Then: []dcs.Write{dcs.PutLeased("lock", []byte("second"), l.ID())}})
	}
	for _, at := range []int{b, c} {
		_, err := take(at)
		require.Error(t, err, "a second hold, %v after the first one's renewal of %v", held.From.Elapsed(), held.TTL)
	}
	let()
	var second dcs.Revision
	tc.eventually(func() bool {
		second, err = take(b)
		return err == nil
	}, "the lock is never free again")
	require.Greater(t, held.From.Elapsed(), held.TTL)
	require.Greater(t, second, token)
}

// A node that starts without its log, or with an older one, has kept its identity. It does
// not vote with it, and gets all data from the others as a new member. Nothing is deleted.
func TestLogIsLost(t *testing.T) {
	parallel(t)
	for name, lose := range map[string]func(t *testing.T, dir string){
		"removed": func(t *testing.T, dir string) { require.NoError(t, os.RemoveAll(filepath.Join(dir, "log"))) },
		"mark":    func(t *testing.T, dir string) { remove(t, dir, "mark.a", "mark.b") },
		"vote":    func(t *testing.T, dir string) { remove(t, dir, "vote.a", "vote.b") },
	} {
		t.Run(name, func(t *testing.T) {
			tc := newTestCluster(t, 3, nil)
			at := tc.follower()
			revs := tc.commits(at, 3, "k")
			tc.settled()
			old := tc.node[at].node.net.Greeting().Life
			tc.stop(at)
			lose(t, tc.config[at].Dir)
			tc.start(at)
			require.Nil(t, tc.node[at].node.member(), "Raft runs on the remaining data")
			tc.becomesVoter(at)
			require.NotEqual(t, old, tc.node[at].node.net.Greeting().Life)
			tc.holds(revs)
			lost, err := os.ReadDir(filepath.Join(tc.config[at].Dir, "lost-"+old.String()))
			require.NoError(t, err)
			require.NotEmpty(t, lost)
			require.Len(t, tc.node[tc.leader()].Status().Voters, 3)
		})
	}
}

func remove(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		require.NoError(t, os.Remove(filepath.Join(dir, name)))
	}
}

// All nodes lose data at the same time. None discards its remaining data.
func TestNoNodeDiscardsAlone(t *testing.T) {
	parallel(t)
	tc := newTestCluster(t, 3, nil)
	tc.commits(0, 3, "k")
	tc.settled()
	tc.stopAll()
	for i := range tc.node {
		require.NoError(t, os.Rename(filepath.Join(tc.config[i].Dir, "log"), filepath.Join(tc.config[i].Dir, "log.kept")))
	}
	for i := range tc.node {
		tc.start(i)
	}
	time.Sleep(time.Second)
	for i, b := range tc.node {
		require.Nil(t, b.node.member())
		lost, err := filepath.Glob(filepath.Join(tc.config[i].Dir, "lost-*"))
		require.NoError(t, err)
		require.Empty(t, lost)
		short, cancel := contextFor(300 * time.Millisecond)
		_, err = b.Get(short, "k/0")
		cancel()
		require.ErrorIs(t, err, dcs.ErrUnavailable)
		require.ErrorContains(t, err, "must not vote with its data")
	}
	tc.stopAll()
	for i := range tc.node {
		require.NoError(t, os.RemoveAll(filepath.Join(tc.config[i].Dir, "log")))
		require.NoError(t, os.Rename(filepath.Join(tc.config[i].Dir, "log.kept"), filepath.Join(tc.config[i].Dir, "log")))
	}
	for i := range tc.node {
		tc.start(i)
	}
	_, err := tc.node[0].Get(testCtx(t), "k/0")
	require.NoError(t, err, "the original logs are back")
}

// A majority that lost its data starts no second cluster while another node still has the
// data of the first.
func TestWipedMajorityFoundsNothing(t *testing.T) {
	parallel(t)
	tc := newTestCluster(t, 3, nil)
	tc.commits(0, 3, "k")
	tc.settled()
	incarnation := tc.node[2].node.net.Greeting().Incarnation
	tc.stopAll()
	tc.wipe(0)
	tc.wipe(1)
	tc.start(0)
	tc.start(1)
	time.Sleep(time.Second)
	for _, b := range tc.node[:2] {
		require.Zero(t, b.node.net.Greeting().Incarnation, "a second cluster")
	}
	tc.start(2)
	tc.eventually(func() bool { return tc.node[0].node.net.Greeting().Incarnation == incarnation }, "the node does not learn the incarnation")
	tc.noLeader(time.Second, 0, 1, 2)
}

// A node is wiped again while it becomes a voter.
func TestWipedTwice(t *testing.T) {
	parallel(t)
	tc := newTestCluster(t, 3, nil)
	at := tc.follower()
	revs := tc.commits(at, 20, "k")
	for range 3 {
		tc.stop(at)
		tc.wipe(at)
		tc.start(at)
		tc.eventually(func() bool { return tc.node[at].node.member() != nil }, "the node does not join")
	}
	tc.becomesVoter(at)
	tc.holds(revs)
	tc.oldLivesAreRemoved()
}

// joinSteps are the states of the configuration while a new life of a node takes the
// place of the one called old.
var joinSteps = map[string]func(servers []raft.Server, old raft.ServerID) bool{
	"added":   func(servers []raft.Server, _ raft.ServerID) bool { return len(servers) == 4 },
	"demoted": func(servers []raft.Server, old raft.ServerID) bool { return !hasVoter(servers, old) },
	"voter": func(servers []raft.Server, old raft.ServerID) bool {
		return voters(servers) == 3 && !hasVoter(servers, old)
	},
	"removed": func(servers []raft.Server, old raft.ServerID) bool { return voters(servers) == 3 && !has(servers, old) },
}

func has(servers []raft.Server, id raft.ServerID) bool {
	return slices.ContainsFunc(servers, func(s raft.Server) bool { return s.ID == id })
}

func hasVoter(servers []raft.Server, id raft.ServerID) bool {
	return slices.ContainsFunc(servers, func(s raft.Server) bool { return s.ID == id && isVoter(s) })
}

func voters(servers []raft.Server) (n int) {
	for _, s := range servers {
		if isVoter(s) {
			n++
		}
	}
	return n
}

// joinUntil wipes a follower and starts it again, until its new life is that far.
func (tc *testCluster) joinUntil(at int, step string) (leader int) {
	tc.t.Helper()
	old := tc.node[at].node.net.ServerID()
	tc.stop(at)
	tc.wipe(at)
	leader = tc.leader()
	tc.start(at)
	m := tc.node[leader].node.member()
	done := joinSteps[step]
	tc.eventually(func() bool {
		servers := m.servers()
		return !has(servers, old) && step != "removed" || done(servers, old)
	}, "the step is not taken")
	return leader
}

// The leader is killed between the steps of a join, and the next one continues.
func TestLeaderIsKilledDuringAJoin(t *testing.T) {
	parallel(t)
	for step := range joinSteps {
		t.Run(step, func(t *testing.T) {
			tc := newTestCluster(t, 3, nil)
			at := tc.follower()
			revs := tc.commits(at, 5, "k")
			leader := tc.joinUntil(at, step)
			tc.kill(leader)
			tc.start(leader)
			tc.becomesVoter(at)
			tc.holds(revs)
			tc.oldLivesAreRemoved()
		})
	}
}

// While a new life joins there are never more voters than nodes, because the old life would
// make the quorum larger and acknowledge nothing.
func TestJoinNeverRaisesTheQuorum(t *testing.T) {
	parallel(t)
	tc := newTestCluster(t, 3, nil)
	at := tc.follower()
	m := tc.node[tc.joinUntil(at, "removed")].node.member()
	tc.becomesVoter(at)
	var seen []int
	for i := m.log.First(); i <= m.log.Last(); i++ {
		var l raft.Log
		require.NoError(t, m.log.Get(i, &l))
		if l.Type == raft.LogConfiguration {
			seen = append(seen, voters(raft.DecodeConfiguration(l.Data).Servers))
		}
	}
	require.Equal(t, []int{3, 2, 3, 3}, seen[len(seen)-4:], "added, demoted, given the vote, removed")
}

// A new life is lost between the steps of its join, and the leader is killed as well. The
// two nodes that have all data can still elect.
func TestNewLifeIsLostDuringItsJoin(t *testing.T) {
	parallel(t)
	for step := range joinSteps {
		t.Run(step, func(t *testing.T) {
			tc := newTestCluster(t, 3, nil)
			at := tc.follower()
			revs := tc.commits(at, 5, "k")
			leader := tc.joinUntil(at, step)
			tc.kill(leader)
			tc.kill(at)
			tc.wipe(at)
			tc.start(leader)
			tc.start(at)
			tc.becomesVoter(at)
			tc.holds(revs)
			tc.oldLivesAreRemoved()
		})
	}
}

// A life that is in the configuration in addition to the running one is removed, even if no
// node asks for it, because a leader may have been stopped just before.
func TestLeftOverLifeIsRemoved(t *testing.T) {
	for _, of := range []string{"leader", "follower"} {
		t.Run(of, func(t *testing.T) {
			tc := newTestCluster(t, 3, nil)
			leader := tc.leader()
			n := tc.node[leader].node
			at := leader
			if of == "follower" {
				at = tc.follower()
			}
			other := disk.Life{1}
			addr := serverAddr(tc.node[at].node.net.Addr(), other)
			require.NoError(t, n.member().raft.AddVoter(transport.ServerID(tc.config[at].ID, other), addr, 0, 0).Error())
			tc.oldLivesAreRemoved()
			tc.well()
			require.Equal(t, n.member().id, tc.node[tc.leader()].node.member().id, "the leader has changed")
		})
	}
}

// oldLivesAreRemoved waits until the configuration has one life of each node.
func (tc *testCluster) oldLivesAreRemoved() {
	tc.t.Helper()
	tc.eventually(func() bool { return len(tc.node[tc.leader()].node.member().servers()) == len(tc.node) }, "old lives are left over")
}

// The others elect a node that has just been given its vote, before the leader that gave it
// could notify the node. The node learns of its vote by the election.
func TestElectedBeforeItWasNotified(t *testing.T) {
	tc := newTestCluster(t, 3, nil)
	at := tc.leader()
	n := tc.node[at].node
	require.NoError(t, n.joinStep(nil))
	for i, b := range tc.node {
		if i != at {
			require.ErrorIs(t, b.node.joinStep(nil), errWaitsForLeader)
		}
	}
}

// Of five nodes two lose their data, and the others still have a majority.
func TestTwoOfFiveLoseTheirData(t *testing.T) {
	tc := newTestCluster(t, 5, nil)
	first := tc.follower()
	second := (first + 1) % 5
	if second == tc.leader() {
		second = (first + 2) % 5
	}
	revs := tc.commits(first, 5, "k")
	tc.stop(first)
	tc.stop(second)
	tc.wipe(first)
	tc.wipe(second)
	tc.start(first)
	tc.start(second)
	tc.becomesVoter(first)
	tc.becomesVoter(second)
	tc.holds(revs)
	require.Len(t, tc.node[tc.leader()].node.member().servers(), 5)
}

// P15: a cluster that was founded again is another one. A node of the old one is refused,
// and its callers get an error that reports it. No data of the old one are ever served as
// those of the new one.
func TestP15AnotherIncarnation(t *testing.T) {
	parallel(t)
	tc := newTestCluster(t, 3, nil)
	const c = 2
	tc.commits(c, 3, "old")
	tc.settled()
	old := tc.node[c].Status().Incarnation
	kept := t.TempDir()
	tc.stopAll()
	copyDir(t, tc.config[c].Dir, kept)
	for i := range tc.node {
		tc.wipe(i)
	}
	for i := range tc.node {
		tc.start(i)
	}
	revs := tc.commits(0, 1, "new")
	now := tc.node[0].Status().Incarnation
	require.NotEqual(t, old, now)
	tc.stop(c)
	copyDir(t, kept, tc.config[c].Dir)
	b := tc.start(c)
	var err error
	tc.eventually(func() bool {
		short, cancel := contextFor(300 * time.Millisecond)
		defer cancel()
		_, err = b.Get(short, "old/0")
		return errors.Is(err, dcs.ErrUnauthorized)
	}, "the error does not report the other incarnation")
	require.ErrorContains(t, err, old)
	require.ErrorContains(t, err, now)
	require.ErrorContains(t, err, "rejoin=true")
	short, cancel := contextFor(300 * time.Millisecond)
	defer cancel()
	_, err = b.Wait(short, "old", 0)
	require.Error(t, err)
	tc.stop(c)
	tc.config[c].Rejoin = true
	tc.start(c)
	tc.becomesVoter(c)
	tc.holds(revs)
	_, err = tc.node[c].Get(testCtx(t), "old/0")
	require.ErrorIs(t, err, dcs.ErrNotFound)
}

// No text advises a step that loses acknowledged writes.
func TestNoTextAdvisesACopy(t *testing.T) {
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	inner, err := filepath.Glob("internal/*/*.go")
	require.NoError(t, err)
	for _, file := range append(files, inner...) {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, text := range []string{"from a copy", "a copy of this node", "empty it", "empty %s", "restore the directory", "restore the data"} {
			require.NotContains(t, string(data), text, file)
		}
	}
}
