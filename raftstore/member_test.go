package raftstore

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// A node can end its part in Raft and begin another one, as often as needed:
// what was acknowledged is there again, a Wait is not older than what was seen,
// and its address and its calls stay.
func TestMemberIsRestarted(t *testing.T) {
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

// A node that is no member answers no question, leads nothing and votes for
// nobody. Its calls go on over the others' leader only when it is one again.
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
	_, err = leader.askTerm(ctx, n.wireAddr())
	require.NoError(t, err)
}
