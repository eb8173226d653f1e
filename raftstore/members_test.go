package raftstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// These tests change the members of a cluster while a lock is held.

// heldLock is a lock that a session holds over a node during a whole test.
type heldLock struct {
	t    *testing.T
	hold *dcs.Hold
	end  func()
}

// hold takes a lock over node i and checks at the end that it was never lost.
func (tc *testCluster) hold(t *testing.T, i int) *heldLock {
	t.Helper()
	timing := dcs.Timing{TTL: 3 * time.Second, LoopWait: 300 * time.Millisecond, RetryTimeout: 1200 * time.Millisecond}
	store, err := dcs.New((&suite{}).on(tc.node[i]), dcs.Options{Timing: timing})
	require.NoError(t, err)
	session, err := store.NewSession(testCtx(t), dcs.SessionOptions{})
	require.NoError(t, err)
	hold, err := session.Acquire(testCtx(t), "lock", []byte("held"))
	require.NoError(t, err)
	h := &heldLock{t: t, hold: hold}
	h.end = sync.OnceFunc(func() {
		require.True(t, hold.Valid(), "the lock was lost: %v", hold.Err())
		require.NoError(t, hold.Release(testCtx(t)))
		_ = session.Close(testCtx(t))
		_ = store.Close()
	})
	t.Cleanup(func() { _ = store.Close() })
	return h
}

// extra adds a node to those of a test and starts it. Its Peers are the given nodes and
// itself.
func (tc *testCluster) extra(id string, known ...int) int {
	tc.t.Helper()
	return tc.extraWith(id, func(*Config) {}, known...)
}

// extraWith is extra with settings that edit changes.
func (tc *testCluster) extraWith(id string, edit func(*Config), known ...int) int {
	tc.t.Helper()
	c := tc.config[0]
	c.ID, c.Dir = id, filepath.Join(tc.t.TempDir(), id)
	c.Peers = []Peer{{ID: id, Addr: reserveAddr(tc.t)}}
	for _, i := range known {
		c.Peers = append(c.Peers, Peer{ID: tc.config[i].ID, Addr: tc.config[i].peerAddr(tc.config[i].ID)})
	}
	c.Listen, c.Advertise = "", ""
	edit(&c)
	tc.config, tc.hooks, tc.node = append(tc.config, c), append(tc.hooks, testHooks()), append(tc.node, nil)
	tc.start(len(tc.node) - 1)
	return len(tc.node) - 1
}

func (tc *testCluster) addrOf(i int) string { return tc.config[i].peerAddr(tc.config[i].ID) }

// voters returns the names of the voters that node i knows.
func (tc *testCluster) voters(i int) string {
	var ids []string
	for _, p := range tc.node[i].Status().Voters {
		ids = append(ids, p.ID)
	}
	return strings.Join(ids, "")
}

// knows waits until each running node knows these voters.
func (tc *testCluster) knows(voters string, nodes ...int) {
	tc.t.Helper()
	tc.eventually(func() bool {
		for _, i := range nodes {
			if tc.voters(i) != voters {
				return false
			}
		}
		return true
	}, "the nodes do not know the voters "+voters)
}

func (tc *testCluster) state(i int) HealthState { return tc.node[i].Status().Health.State }

func TestAddRemoveAndAddAgain(t *testing.T) {
	parallel(t)
	tc := newTestCluster(t, 3, nil)
	follower := tc.follower()
	lock := tc.hold(t, follower)
	revs := tc.commits(0, 5, "k")
	d := tc.extra("d", 0) // its Peers name one node
	tc.eventually(func() bool { return tc.state(d) == Joining }, "the node does not find the cluster")
	short, cancel := contextFor(300 * time.Millisecond)
	_, err := tc.node[d].Get(short, "k/0")
	cancel()
	require.ErrorIs(t, err, dcs.ErrUnavailable, "the node has no part in the cluster")
	require.Equal(t, "abc", tc.voters(0), "a running node was added without a request")

	at := tc.node[(tc.leader()+1)%3].Membership() // any node
	require.NoError(t, at.AddVoter(testCtx(t), "d", tc.addrOf(d)))
	require.NoError(t, at.AddVoter(testCtx(t), "d", tc.addrOf(d)), "the node is a voter already")
	tc.knows("abcd", 0, 1, 2, d)
	tc.eventually(func() bool { return tc.state(d) == Well }, "the node does not take part")
	tc.holds(revs)
	members, err := tc.node[d].Membership().Members(testCtx(t))
	require.NoError(t, err)
	require.Len(t, members, 4)
	for _, m := range members {
		require.True(t, m.Voter, "%+v", m)
		require.NotEqual(t, NeverContacted, m.LastContact, "%+v", m)
		require.Less(t, m.LastContact, 10*time.Second)
		require.Positive(t, m.Acked)
	}

	life := tc.node[d].Status().Life
	require.NoError(t, at.Remove(testCtx(t), "d"))
	require.ErrorIs(t, at.Remove(testCtx(t), "d"), dcs.ErrNotFound)
	tc.knows("abc", 0, 1, 2)
	tc.eventually(func() bool { return tc.state(d) == Removed }, "the node does not detect that it was removed")
	require.ErrorIs(t, tc.node[d].Status().Health.Err, errRemoved)
	term := tc.node[tc.leader()].Status().Term
	short, cancel = contextFor(300 * time.Millisecond)
	_, err = tc.node[d].Get(short, "k/0")
	cancel()
	require.ErrorContains(t, err, "was removed from the cluster")
	tc.stop(d)
	tc.start(d) // it must not come back by itself
	tc.eventually(func() bool { return tc.state(d) == Removed }, "the removed node takes part after a restart")
	require.Equal(t, term, tc.node[tc.leader()].Status().Term, "the removed node caused an election")

	revs["later"] = tc.commits(1, 1, "more")["more/0"]
	delete(revs, "later")
	require.NoError(t, at.AddVoter(testCtx(t), "d", tc.addrOf(d)))
	tc.knows("abcd", 0, 1, 2, d)
	require.NotEqual(t, life, tc.node[d].Status().Life)
	tc.holds(revs)
	lock.end()
}

// A leader that is removed transfers the leadership, and the others have a leader at once.
func TestRemoveTheLeader(t *testing.T) {
	parallel(t)
	tc := newTestCluster(t, 3, nil)
	lock := tc.hold(t, tc.follower())
	old := tc.leader()
	id := tc.config[old].ID
	require.NoError(t, tc.node[old].Membership().Remove(testCtx(t), id))
	rest := []int{(old + 1) % 3, (old + 2) % 3}
	tc.knows(strings.ReplaceAll("abc", id, ""), rest...)
	tc.eventually(func() bool { return tc.state(old) == Removed }, "the node does not detect that it was removed")
	require.Nil(t, tc.node[old].node.member())
	lock.end()
	// Of two voters one can be removed, and the last one cannot.
	leader := tc.leader()
	other := rest[0] + rest[1] - leader
	at := tc.node[leader].Membership()
	require.NoError(t, at.Remove(testCtx(t), tc.config[other].ID))
	err := at.Remove(testCtx(t), tc.config[leader].ID)
	require.ErrorIs(t, err, dcs.ErrConflict)
	require.ErrorContains(t, err, "is the last voter")
	tc.commits(leader, 1, "alone")
}

// A change that would lose the quorum is refused, and names the nodes that do not
// answer.
func TestRemoveKeepsTheQuorum(t *testing.T) {
	parallel(t)
	tc := newTestCluster(t, 3, nil)
	leader := tc.leader()
	down, up := (leader+1)%3, (leader+2)%3
	tc.kill(down)
	at := tc.node[up].Membership()
	err := at.Remove(testCtx(t), tc.config[up].ID)
	require.ErrorIs(t, err, dcs.ErrConflict)
	require.ErrorContains(t, err, "lose its quorum: no answer from "+tc.config[down].ID)
	require.Equal(t, "abc", tc.voters(leader))
	require.NoError(t, at.Remove(testCtx(t), tc.config[down].ID), "the node that is down can be removed")
	tc.knows(strings.ReplaceAll("abc", tc.config[down].ID, ""), leader, up)
	tc.start(down)
	tc.eventually(func() bool { return tc.state(down) == Removed }, "the node takes part again")
}

// A node without a vote follows and serves calls, and becomes a voter later.
func TestNonVoter(t *testing.T) {
	parallel(t)
	tc := newTestCluster(t, 3, nil)
	revs := tc.commits(0, 5, "k")
	d := tc.extra("d", 1, 2)
	at := tc.node[0].Membership()
	require.NoError(t, at.AddNonVoter(testCtx(t), "d", tc.addrOf(d)))
	tc.eventually(func() bool { return tc.state(d) == NonVoting }, "the node is not a non-voter")
	tc.holds(revs)
	tc.knows("abc", d)
	require.ErrorIs(t, at.Transfer(testCtx(t), "d"), dcs.ErrConflict)
	tc.stop(d)
	tc.start(d)
	tc.eventually(func() bool { return tc.state(d) == NonVoting }, "the node is not a non-voter after a restart")
	tc.stop(d) // and after the loss of its disk
	tc.wipe(d)
	tc.start(d)
	tc.eventually(func() bool { return tc.state(d) == NonVoting }, "the node does not come back")
	tc.holds(revs)
	tc.knows("abc", d)
	require.NoError(t, at.AddVoter(testCtx(t), "d", tc.addrOf(d)))
	tc.knows("abcd", 0, 1, 2, d)
	require.ErrorIs(t, at.AddNonVoter(testCtx(t), "d", tc.addrOf(d)), dcs.ErrConflict)
	require.NoError(t, at.Remove(testCtx(t), "d"))
	require.NoError(t, at.AddNonVoter(testCtx(t), "d", tc.addrOf(d)))
	tc.eventually(func() bool { return tc.state(d) == NonVoting }, "the node is not a non-voter again")
	require.NoError(t, at.Remove(testCtx(t), "d"))
	tc.eventually(func() bool { return tc.state(d) == Removed }, "a non-voter does not detect that it was removed")
}

// A node without a vote loses its data, and the leader is killed after so many changes of
// the configuration. The node keeps its place, without a vote.
func TestNonVoterKeepsItsPlace(t *testing.T) {
	parallel(t)
	for changes := range uint64(3) {
		t.Run(fmt.Sprint(changes+1), func(t *testing.T) {
			tc := newTestCluster(t, 3, nil)
			revs := tc.commits(0, 5, "k")
			d := tc.extra("d", 0, 1, 2)
			require.NoError(t, tc.node[0].Membership().AddNonVoter(testCtx(t), "d", tc.addrOf(d)))
			tc.eventually(func() bool { return tc.state(d) == NonVoting }, "the node is not a non-voter")
			leader := tc.leader()
			m := tc.node[leader].node.member()
			before := m.committed().index
			tc.stop(d)
			tc.wipe(d)
			tc.start(d)
			tc.eventually(func() bool { return m.committed().index > before+changes }, "the new life is not admitted")
			tc.kill(leader)
			tc.start(leader)
			tc.eventually(func() bool { return tc.state(d) == NonVoting }, "the node lost its place")
			tc.holds(revs)
			tc.knows("abc", 0, 1, 2, d)
			tc.oldLivesAreRemoved()
		})
	}
}

// A voter is removed and added again without a vote before it has detected that.
func TestVoterIsAddedAgainWithoutAVote(t *testing.T) {
	parallel(t)
	tc := newTestCluster(t, 3, nil)
	follower, leader := tc.follower(), tc.leader()
	own, r := tc.node[follower].node.net.ServerID(), tc.node[leader].node.member().raft
	addr := raft.ServerAddress(tc.node[follower].node.wireAddr())
	back := tc.isolate(follower)
	require.NoError(t, r.RemoveServer(own, 0, 0).Error())
	require.NoError(t, r.AddNonvoter(own, addr, 0, 0).Error())
	back()
	tc.eventually(func() bool { return tc.state(follower) == NonVoting }, "the node still acts as a voter")
	require.NoError(t, tc.node[leader].Membership().AddVoter(testCtx(t), tc.config[follower].ID, tc.addrOf(follower)))
	tc.well()
}

// A removed node is added again while it gives up its life for that. It joins with the
// next one.
func TestAddedWithTheLifeThatItGaveUp(t *testing.T) {
	parallel(t)
	tc := newTestCluster(t, 3, nil)
	d := tc.extra("d", 0, 1, 2)
	at := tc.node[0].Membership()
	require.NoError(t, at.AddNonVoter(testCtx(t), "d", tc.addrOf(d)))
	tc.eventually(func() bool { return tc.state(d) == NonVoting }, "the node is not a non-voter")
	old := tc.node[d].node.net.ServerID()
	addr := raft.ServerAddress(tc.node[d].node.wireAddr())
	require.NoError(t, at.Remove(testCtx(t), "d"))
	tc.eventually(func() bool { return tc.state(d) == Removed }, "the node does not detect that it was removed")
	require.NoError(t, tc.node[tc.leader()].node.member().raft.AddNonvoter(old, addr, 0, 0).Error())
	tc.eventually(func() bool { return tc.state(d) == NonVoting }, "the node stays removed")
	tc.oldLivesAreRemoved()
}

func TestTransfer(t *testing.T) {
	parallel(t)
	tc := newTestCluster(t, 3, nil)
	lock := tc.hold(t, tc.follower())
	for range 3 {
		to := tc.follower()
		at := tc.node[3-to-tc.leader()].Membership()
		require.NoError(t, at.Transfer(testCtx(t), tc.config[to].ID))
		require.Equal(t, to, tc.leader())
		require.NoError(t, at.Transfer(testCtx(t), tc.config[to].ID), "the node leads already")
	}
	before := tc.leader()
	require.NoError(t, tc.node[0].Membership().Transfer(testCtx(t), ""))
	require.NotEqual(t, before, tc.leader())
	require.ErrorIs(t, tc.node[0].Membership().Transfer(testCtx(t), "z"), dcs.ErrNotFound)
	lock.end()
}

// A change that waits for a missing node reports that, and refuses other changes
// meanwhile.
func TestOneChangeAtATime(t *testing.T) {
	parallel(t)
	tc := newTestCluster(t, 3, nil)
	ctx, cancel := context.WithTimeout(testCtx(t), 3*time.Second)
	defer cancel()
	nobody := reserveAddr(t)
	added := make(chan error, 1)
	begun := dcs.Now()
	leader := tc.leader() // its answer comes before the context ends
	go func() { added <- tc.node[leader].Membership().AddVoter(ctx, "z", nobody) }()
	reconfigurer := tc.node[leader].node.reconfigurer
	tc.eventually(func() bool {
		reconfigurer.mu.Lock()
		defer reconfigurer.mu.Unlock()
		return reconfigurer.isAsked("z")
	}, "the change does not begin")
	err := tc.node[1].Membership().Remove(testCtx(t), "c")
	require.ErrorIs(t, err, dcs.ErrConflict)
	require.ErrorIs(t, err, ErrChangeInProgress)
	require.ErrorContains(t, err, "AddVoter of node z")
	_, err = tc.node[1].Membership().Members(testCtx(t))
	require.NoError(t, err)
	err = <-added
	require.Less(t, begun.Elapsed(), 3500*time.Millisecond)
	require.ErrorIs(t, err, dcs.ErrUnavailable)
	require.ErrorContains(t, err, "does not answer at "+nobody)
	require.Equal(t, "abc", tc.voters(0))
	tc.eventually(func() bool {
		return tc.node[1].Membership().Transfer(testCtx(t), "") == nil
	}, "the change never ends")
}

// A removed node that is added again is stopped before it has given up its data. The next
// call continues with the life that it has then.
func TestStoppedBeforeTheNewLifeBegins(t *testing.T) {
	parallel(t)
	tc := newTestCluster(t, 3, nil)
	revs := tc.commits(0, 3, "k")
	d := tc.extra("d", 0)
	at := tc.node[0].Membership()
	require.NoError(t, at.AddVoter(testCtx(t), "d", tc.addrOf(d)))
	require.NoError(t, at.Remove(testCtx(t), "d"))
	tc.eventually(func() bool { return tc.state(d) == Removed }, "the node does not detect that it was removed")
	m := tc.node[tc.leader()].node.member()
	life := tc.node[d].node.net.Greeting().Life
	tc.kill(d)
	require.NoError(t, m.raft.AddNonvoter(transport.ServerID("d", life), serverAddr(tc.addrOf(d), life), 0, time.Second).Error())
	tc.start(d)
	require.Equal(t, Removed, tc.state(d))
	require.NoError(t, at.AddVoter(testCtx(t), "d", tc.addrOf(d)))
	tc.knows("abcd", 0, 1, 2, d)
	tc.holds(revs)
	require.Len(t, tc.node[tc.leader()].Status().Members, 4)
}

// A leader that is cut off must not answer that a node was removed, because another leader
// may have added it.
func TestPastLeaderReportsNoRemoval(t *testing.T) {
	parallel(t)
	tc := newTestCluster(t, 3, nil)
	n := tc.node[tc.leader()].node
	stranger := n.net.Greeting()
	stranger.ID, stranger.Life = "z", newLife
	tc.eventually(func() bool { return n.answerSetup(stranger, setupMessage{Standing: standingMember}).Removed }, "the leader does not answer")
	stranger.ID = tc.config[tc.follower()].ID
	tc.eventually(func() bool { return !n.answerSetup(stranger, setupMessage{Standing: standingMember}).Replaced.IsZero() }, "the leader does not answer")
	n.net.Gate(transport.KindCall, errors.New("cut off")) // Raft continues
	require.NotZero(t, n.leading())
	answer := n.answerSetup(stranger, setupMessage{Standing: standingMember})
	require.Zero(t, answer.Replaced)
	stranger.ID = "z"
	require.False(t, n.answerSetup(stranger, setupMessage{Standing: standingMember}).Removed)
	n.net.Gate(transport.KindCall, nil)
}

// Arguments are checked before anything is sent.
func TestMembershipArguments(t *testing.T) {
	tc := newTestCluster(t, 1, nil)
	at := tc.node[0].Membership()
	for _, err := range []error{
		at.AddVoter(testCtx(t), "", "127.0.0.1:1"), at.AddVoter(testCtx(t), "x y", "127.0.0.1:1"),
		at.AddVoter(testCtx(t), "b", ""), at.AddNonVoter(testCtx(t), "b", "127.0.0.1:0"), at.Move(testCtx(t), "b", "10.0.0.1:1"),
		at.Remove(testCtx(t), ""), at.Transfer(testCtx(t), "#"),
	} {
		require.ErrorIs(t, err, dcs.ErrInvalid)
	}
	require.ErrorIs(t, at.Transfer(testCtx(t), ""), dcs.ErrConflict)
}

// A change that is not committed may never be. A node that would give up its data because
// of it must not learn of it.
func TestNothingIsAdmittedBeforeTheCommit(t *testing.T) {
	parallel(t)
	tc := newTestCluster(t, 3, nil)
	at := tc.leader()
	n := tc.node[at].node
	tc.commits(at, 1, "k")
	tc.settled()
	m, peer := n.member(), n.net.Greeting()
	peer.ID, peer.Life = "c", newLife
	tc.isolate(at)
	go m.raft.AddNonvoter(transport.ServerID(peer.ID, peer.Life), "x", 0, time.Second)
	tc.eventually(func() bool { return len(m.servers()) == 4 }, "the change is not proposed")
	var answer setupMessage
	n.reconfigurer.note(peer, setupMessage{Standing: standingLost}, &answer)
	require.Equal(t, setupMessage{}, answer)
}

// A node that cannot read the cluster's entries is refused before it is added.
func TestNodeOfAnOlderReleaseIsNotAdded(t *testing.T) {
	parallel(t)
	tc := newTestCluster(t, 3, nil)
	tc.commits(0, 1, "k")
	d := tc.extra("d", 0)
	n := tc.node[d].node
	n.net.ServeSetup(func(peer transport.Hello, body []byte) ([]byte, error) {
		m, err := decodeSetup(body)
		if err != nil {
			return nil, err
		}
		answer := n.answerSetup(peer, m)
		answer.Level = 0
		return json.Marshal(answer)
	})
	err := tc.node[0].Membership().AddVoter(testCtx(t), "d", tc.addrOf(d))
	require.ErrorIs(t, err, dcs.ErrConflict)
	require.ErrorContains(t, err, "understands feature level 0 and the cluster is at level 1")
	require.Len(t, tc.node[tc.leader()].Status().Members, 3)
}

// The Observer learns of changes of the members, once.
func TestMembersAreObserved(t *testing.T) {
	parallel(t)
	var mu sync.Mutex
	var seen []string
	tc := newTestCluster(t, 3, func(i int, c *Config, _ *hooks) {
		if i == 0 {
			c.Observer.Endpoint = func(e dcs.EndpointEvent) {
				if e.Change == dcs.Added || e.Change == dcs.Removed {
					mu.Lock()
					defer mu.Unlock()
					seen = append(seen, e.Change.String()+": "+e.Reason)
				}
			}
		}
	})
	tc.commits(0, 1, "k")
	d := tc.extra("d", 0)
	at := tc.node[0].Membership()
	require.NoError(t, at.AddVoter(testCtx(t), "d", tc.addrOf(d)))
	last := func() (text string, n int) {
		mu.Lock()
		defer mu.Unlock()
		if len(seen) > 0 {
			text = seen[len(seen)-1]
		}
		return text, len(seen)
	}
	// Changes that follow each other at once may be one event.
	tc.eventually(func() bool { text, _ := last(); return strings.Contains(text, "a voter") }, "the new node is not observed")
	require.NoError(t, at.Remove(testCtx(t), "d"))
	tc.eventually(func() bool { text, _ := last(); return text == "removed: node d: removed" }, "the removal is not observed")
	_, n := last()
	tc.stop(0)
	tc.start(0) // earlier changes must not be reported again
	tc.commits(0, 1, "more")
	_, again := last()
	require.Equal(t, n, again, "%v", seen)
}
