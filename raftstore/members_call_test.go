package raftstore

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

func TestMembersCallListsTheVoters(t *testing.T) {
	tc := newTestCluster(t, 3, nil)
	tc.leader()
	for _, b := range tc.node {
		o := b.node.ask(testCtx(t), &request{op: opMembers}, nothing)
		require.NoError(t, o.err)
		var got []Peer
		for _, m := range o.reply.members {
			require.True(t, m.voter)
			got = append(got, Peer{ID: transport.NodeOf(m.id), Addr: m.addr})
		}
		require.ElementsMatch(t, tc.config[0].Peers, got)
	}
}
