package raftstore

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// A node that does not catch up gets no vote, because it could not acknowledge the
// cluster's writes.
func TestNoVoteWithoutTheLog(t *testing.T) {
	var starved atomic.Pointer[string]
	tc := newTestCluster(t, 3, func(_ int, _ *Config, h *hooks) {
		h.transport = func(t raft.Transport) raft.Transport {
			return &starvedTransport{Transport: t, WithPreVote: t.(raft.WithPreVote), starved: &starved}
		}
	})
	at := tc.follower()
	tc.commits(at, 5, "k")
	tc.settled()
	tc.stop(at)
	tc.wipe(at)
	addr := tc.config[at].Peers[at].Addr
	starved.Store(&addr)
	tc.start(at)
	leader := tc.node[tc.leader()].node
	own := func() (s raft.Server, there bool) {
		for _, s := range leader.member().servers() {
			if s.ID == tc.node[at].node.net.ServerID() {
				return s, true
			}
		}
		return s, false
	}
	tc.eventually(func() bool { _, there := own(); return there }, "the node is not added")
	for begun := dcs.Now(); begun.Elapsed() < time.Second; time.Sleep(5 * time.Millisecond) {
		s, there := own()
		require.True(t, there)
		require.Equal(t, raft.Nonvoter, s.Suffrage, "the node has a vote and no log")
	}
	require.Equal(t, Joining, tc.node[at].Status().Health.State)
	starved.Store(nil)
	tc.becomesVoter(at)
}

// newLife is a life that no node of a test has.
var newLife = disk.Life{2}

// A second process with an empty directory, at another address, does not take the place
// of a node that runs at its own address.
func TestTwinTakesNoPlace(t *testing.T) {
	tc := newTestCluster(t, 3, nil)
	at := tc.follower()
	tc.commits(at, 1, "k")
	tc.settled()
	leader := tc.node[tc.leader()].node
	before := leader.member().servers()
	twin := leader.net.Greeting()
	twin.ID, twin.Life = tc.config[at].ID, newLife
	for begun := dcs.Now(); begun.Elapsed() < time.Second; time.Sleep(20 * time.Millisecond) {
		var answer setupMessage
		leader.reconfigurer.note(twin, setupMessage{Standing: standingJoining}, &answer)
		require.False(t, answer.Admitted)
	}
	require.Equal(t, before, leader.member().servers())
}

// A leader replaces no node by one of another incarnation, and adds none by itself.
func TestStrangersDoNotJoin(t *testing.T) {
	tc := newTestCluster(t, 3, nil)
	leader := tc.node[tc.leader()].node
	own := leader.net.Greeting()
	for name, peer := range map[string]transport.Hello{
		"another incarnation": {ID: "b", Life: newLife, Incarnation: disk.Incarnation{9}},
		"no member":           {ID: "z", Life: newLife, Incarnation: own.Incarnation},
		"no life":             {ID: "b", Incarnation: own.Incarnation},
	} {
		for _, s := range []standing{standingLost, standingJoining} {
			var answer setupMessage
			leader.reconfigurer.note(peer, setupMessage{Standing: s}, &answer)
			require.Empty(t, leader.reconfigurer.list(), name)
			require.Equal(t, setupMessage{}, answer, name)
		}
	}
}
