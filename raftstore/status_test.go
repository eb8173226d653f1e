package raftstore

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

func TestStatusOfALeader(t *testing.T) {
	b, err := New(t.Context(), Config{ID: "a", Dir: t.TempDir(), Root: "r", Listen: "127.0.0.1:0"})
	require.NoError(t, err)
	defer b.Close()
	rev, err := b.Commit(testCtx(t), dcs.Txn{Then: []dcs.Write{dcs.Put("k", []byte("v"))}})
	require.NoError(t, err)
	s := b.Status()
	require.Equal(t, "a", s.ID)
	require.Equal(t, "a", s.LeaderID)
	require.Equal(t, s.Addr, s.LeaderAddr)
	require.Equal(t, "Leader", s.State)
	require.Positive(t, s.Term)
	require.GreaterOrEqual(t, s.Applied, uint64(rev))
	require.GreaterOrEqual(t, s.Committed, s.Applied)
	require.GreaterOrEqual(t, s.LastLog, s.Committed)
	require.Zero(t, s.LastContact)
	require.Positive(t, s.Disk.Writes)
	require.Positive(t, s.Disk.Max)
	require.Equal(t, []Peer{{"a", s.Addr}}, s.Voters)
	require.Empty(t, s.Conns)
}

func TestStatusWithoutALeader(t *testing.T) {
	c := clusterConfigs(t, 3)[1]
	b, err := New(t.Context(), c)
	require.NoError(t, err)
	defer b.Close()
	s := b.Status()
	require.Equal(t, "b", s.ID)
	require.Equal(t, c.Peers[1].Addr, s.Addr)
	require.Empty(t, s.LeaderID)
	require.NotEqual(t, "Leader", s.State)
	require.Equal(t, NeverContacted, s.LastContact)
	require.Empty(t, s.Voters)
}

// TestStatusOfAFollower: the leader is named, heard, and connected to.
func TestStatusOfAFollower(t *testing.T) {
	configs := clusterConfigs(t, 3)
	nodes := make([]*Backend, 3)
	for i, c := range configs {
		c.HeartbeatTimeout = 300 * time.Millisecond
		b, err := New(t.Context(), c)
		require.NoError(t, err)
		defer b.Close()
		nodes[i] = b
	}
	_, err := nodes[0].Commit(testCtx(t), dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		for _, n := range nodes {
			s := n.Status()
			if s.State != "Follower" || s.LeaderID == "" {
				continue
			}
			return s.LastContact >= 0 && s.LastContact < 10*time.Second && len(s.Conns) > 0 && s.LeaderAddr != s.Addr
		}
		return false
	}, 10*time.Second, time.Millisecond)
}
