package raftstore

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport/transporttest"
)

// A node with another node's certificate cannot vote, and its messages are refused.
func TestImpostorDoesNotVote(t *testing.T) {
	parallel(t)
	ca := newTestCA(t)
	tc := &testCluster{t: t, config: clusterConfigs(t, 3), node: make([]*Backend, 3)}
	for i := range tc.config {
		tc.hooks = append(tc.hooks, testHooks())
		ca.named(t)(&tc.config[i])
		tc.config[i].HeartbeatTimeout = 500 * time.Millisecond
	}
	t.Cleanup(tc.stopAll)
	for i := range 3 {
		tc.start(i)
	}
	tc.leader()
	rev, err := tc.node[0].Commit(testCtx(t), dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
	require.NoError(t, err)
	tc.stop(2)
	genuine := tc.config[2].TLS
	tc.config[2].TLS = ca.issueAs(t, tc.config[2], "b")
	tc.config[2].TLS.Names["c"] = transporttest.NodeName("b")
	tc.start(2)
	tc.stop(0) // which may have made b the leader
	term := tc.node[1].node.member().raft.CurrentTerm()
	// One vote is missing for b or c to lead.
	for start := dcs.Now(); start.Elapsed() < 8*tc.config[0].HeartbeatTimeout; {
		for _, b := range tc.node[1:] {
			require.LessOrEqual(t, b.node.leading(), term, "the impostor took part in an election")
		}
		<-time.After(10 * time.Millisecond)
	}
	b := tc.node[1]
	tc.stop(2)
	tc.config[2].TLS = genuine
	tc.start(2)
	e, err := b.Get(testCtx(t), "k")
	require.NoError(t, err)
	require.Equal(t, rev, e.Created)
}
