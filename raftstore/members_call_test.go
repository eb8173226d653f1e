package raftstore

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMembersCallListsTheVoters(t *testing.T) {
	tc := newTestCluster(t, 3, nil)
	tc.leader()
	for _, b := range tc.node {
		o := b.node.ask(testCtx(t), &request{op: opMembership, change: memberRequest{verb: verbList}}, nothing)
		require.NoError(t, o.err)
		var got []Peer
		for _, m := range o.reply.members {
			require.True(t, m.Voter)
			got = append(got, Peer{ID: m.ID, Addr: m.Addr})
		}
		require.ElementsMatch(t, tc.config[0].Peers, got)
	}
}
