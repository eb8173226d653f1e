package raftstore

import (
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
)

// A node can end its part in Raft and begin another one, as often as needed. Acknowledged
// writes are present again, a Wait returns no older state than was seen before, and the
// address and the calls of the node stay.
func TestMemberIsRestarted(t *testing.T) {
	parallel(t)
	tc := newTestCluster(t, 3, nil)
	ctx := testCtx(t)
	at := tc.follower()
	n, other := tc.node[at].node, tc.node[tc.leader()]
	for _, v := range []string{"one", "two"} {
		rev, err := tc.node[at].Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", []byte(v))}})
		require.NoError(t, err)
		old := n.member()
		require.NoError(t, n.stopMember())
		require.NoError(t, n.startMember())
		require.NotSame(t, old, n.member())
		s, err := tc.node[at].Wait(ctx, "k", rev-1)
		require.NoError(t, err)
		require.Equal(t, v, string(s.Entries[0].Value))
		require.Equal(t, rev, s.Entries[0].Modified)
		_, err = other.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("other", []byte(v))}})
		require.NoError(t, err)
		e, err := tc.node[at].Get(ctx, "other")
		require.NoError(t, err)
		require.Equal(t, v, string(e.Value))
	}
}

// A node that is no member answers no question, does not lead and does not vote. Its
// calls reach the others' leader only when it is a member again.
func TestNoMemberAnswersNoQuestion(t *testing.T) {
	tc := newTestCluster(t, 3, nil)
	ctx := testCtx(t)
	at := tc.follower()
	n := tc.node[at].node
	leader := tc.node[tc.leader()].node
	_, err := leader.askTerm(ctx, n.wireAddr())
	require.NoError(t, err)
	require.NoError(t, n.stopMember())
	n.part.Store(nil)
	_, err = leader.askTerm(ctx, n.wireAddr())
	require.Error(t, err)
	require.Zero(t, n.leading())
	require.False(t, n.leads(0))
	require.Empty(t, n.leaderAddr())
	require.Equal(t, replyNotLeader, n.serve(ctx, &request{op: opPosition}).kind)
	s := tc.node[at].Status()
	require.Empty(t, s.Voters)
	require.Zero(t, s.Term)
	require.NoError(t, n.startMember())
	tc.eventually(func() bool { // its connections were closed meanwhile
		_, err := leader.askTerm(ctx, n.wireAddr())
		return err == nil
	}, "the node answers no question")
}

// A node whose log is longer than the snapshot that it is sent, with entries that were
// never committed, continues. Raft alone would refuse every later entry, because the end
// of the deleted log stays in its memory.
func TestSnapshotOfAShorterLog(t *testing.T) {
	tc := newTestCluster(t, 3, func(_ int, c *Config, _ *hooks) {
		c.SnapshotThreshold, c.SnapshotInterval = 20, 20*time.Millisecond
	})
	ctx := testCtx(t)
	at := tc.leader()
	cut := tc.node[at].node
	back := tc.isolate(at)
	for range 300 { // before it notices that it no longer leads
		cut.member().raft.Apply((&state.Command{Kind: state.KindOpen}).Encode(), 0)
	}
	tc.eventually(func() bool { return cut.member().raft.LastIndex() > 250 }, "the entries were not stored")
	other := tc.node[(at+1)%3]
	var last dcs.Revision
	for n := range 60 {
		require.Eventually(t, func() bool {
			rev, err := other.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", []byte{byte(n)})}})
			last = rev
			return err == nil
		}, 10*time.Second, time.Millisecond)
	}
	tc.eventually(func() bool { return other.node.member().log.First() > 20 }, "the log is never cut")
	require.Less(t, uint64(last), cut.member().raft.LastIndex(), "the snapshot is the longer one")
	old := cut.member()
	back()
	tc.eventually(func() bool { return cut.state.Applied() >= uint64(last) }, "it does not catch up")
	tc.eventually(func() bool { return cut.member() != old }, "Raft is not started again")
	rev, err := tc.node[at].Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("after", nil)}})
	require.NoError(t, err)
	tc.eventually(func() bool { return cut.state.Applied() >= uint64(rev) }, "it does not follow")
}

// A snapshot that arrives when this node has later entries is answered and not
// installed, because these entries may have been acknowledged.
func TestLateSnapshotIsNotInstalled(t *testing.T) {
	tc := newTestCluster(t, 3, func(_ int, c *Config, _ *hooks) {
		c.SnapshotThreshold, c.SnapshotInterval = 20, 20*time.Millisecond
	})
	leader, follower := tc.node[tc.leader()].node, tc.node[tc.follower()].node
	tc.commits(tc.leader(), 60, "k")
	tc.settled()
	tc.eventually(func() bool { index, _ := leader.member().newestSnapshot(); return index > 20 }, "no snapshot was made")
	list, err := leader.member().snaps.List()
	require.NoError(t, err)
	meta, content, err := leader.member().snaps.Open(list[0].ID)
	require.NoError(t, err)
	defer content.Close()
	tc.commits(tc.leader(), 1, "after")
	tc.settled()
	m := leader.member()
	last, applied := follower.member().log.Last(), follower.state.Applied()
	require.Greater(t, last, meta.Index)
	var resp raft.InstallSnapshotResponse
	require.NoError(t, m.peers.InstallSnapshot(follower.member().id, raft.ServerAddress(follower.net.Addr()), &raft.InstallSnapshotRequest{
		RPCHeader:       raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(m.id), Addr: m.peers.EncodePeer(m.id, raft.ServerAddress(leader.net.Addr()))},
		SnapshotVersion: meta.Version, Term: m.raft.CurrentTerm(), Leader: m.peers.EncodePeer(m.id, raft.ServerAddress(leader.net.Addr())),
		LastLogIndex: meta.Index, LastLogTerm: meta.Term,
		Configuration: raft.EncodeConfiguration(meta.Configuration), ConfigurationIndex: meta.ConfigurationIndex, Size: meta.Size,
	}, &resp, content))
	require.True(t, resp.Success)
	require.GreaterOrEqual(t, follower.member().log.Last(), last, "acknowledged entries are missing")
	require.GreaterOrEqual(t, follower.state.Applied(), applied)
}
