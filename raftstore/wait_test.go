package raftstore

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// A follower learns of the last commit at once, not with the next heartbeat.
func TestWaitOnFollowerIsPrompt(t *testing.T) {
	const never = 20 * time.Second
	tc := newTestCluster(t, 3, func(_ int, c *Config, h *hooks) {
		c.HeartbeatTimeout = time.Second
		h.adjust = func(rc *raft.Config) { rc.CommitTimeout = never }
	})
	ctx := testCtx(t)
	leader, follower := tc.node[tc.leader()], tc.node[tc.follower()]
	rev, err := leader.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
	require.NoError(t, err)
	_, err = follower.Wait(ctx, "k", 0) // it has caught up and probes
	require.NoError(t, err)
	var took []time.Duration
	for range 20 {
		woken := make(chan dcs.Instant, 1)
		go func() {
			s, err := follower.Wait(ctx, "k", rev)
			if err == nil && s.Revision > rev {
				woken <- dcs.Now()
			}
			close(woken)
		}()
		begun := dcs.Now()
		next, err := leader.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
		require.NoError(t, err)
		took = append(took, (<-woken).Sub(begun))
		rev = next
	}
	slices.Sort(took)
	require.Less(t, took[len(took)/2], never/40, "half of the notices came late: %v", took)
}

// starvedTransport sends nothing but heartbeats to one node.
type starvedTransport struct {
	raft.Transport
	raft.WithPreVote
	starved *atomic.Pointer[string]
}

func (s *starvedTransport) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

func (s *starvedTransport) AppendEntries(id raft.ServerID, to raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	at := s.starved.Load()
	if at != nil && *at == transport.PlainAddr(string(to)) && (req.PrevLogEntry > 0 || req.LeaderCommitIndex > 0) {
		return errCut
	}
	return s.Transport.AppendEntries(id, to, req, resp)
}

// The probe detects a node that falls behind although it hears from the leader, and the
// leader serves the node's Waits.
func TestWaitOnANodeThatFallsBehind(t *testing.T) {
	var starved atomic.Pointer[string]
	tc := newTestCluster(t, 3, func(_ int, c *Config, h *hooks) {
		h.transport = func(t raft.Transport) raft.Transport {
			return &starvedTransport{Transport: t, WithPreVote: t.(raft.WithPreVote), starved: &starved}
		}
		c.HeartbeatTimeout = time.Second
	})
	ctx := testCtx(t)
	leader, behind := tc.node[tc.leader()], tc.node[tc.follower()]
	rev, err := leader.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
	require.NoError(t, err)
	_, err = behind.Wait(ctx, "k", 0)
	require.NoError(t, err)
	addr := behind.node.net.Addr()
	starved.Store(&addr)
	for range 2 {
		rev, err = leader.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
		require.NoError(t, err)
		begun := dcs.Now()
		s, err := behind.Wait(ctx, "k", rev-1)
		require.NoError(t, err)
		require.GreaterOrEqual(t, s.Revision, rev)
		require.Less(t, begun.Elapsed(), min(testTiming.RetryTimeout, 4*time.Second))
		require.Less(t, behind.node.state.Applied(), uint64(rev), "the node did not fall behind")
	}
	// The Wait has returned rev, and later ones return nothing older.
	starved.Store(nil)
	s, err := behind.Wait(ctx, "k", 0)
	require.NoError(t, err)
	require.GreaterOrEqual(t, s.Revision, rev)
}

// A Wait that has ended leaves no entry in the node's state.
func TestWaitLeavesNothing(t *testing.T) {
	b := newTestCluster(t, 1, nil).node[0]
	ctx := testCtx(t)
	rev, err := b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
	require.NoError(t, err)
	for i := range 10 {
		short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
		_, err = b.Wait(short, fmt.Sprint("quiet/", i), rev)
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
	require.Zero(t, reflect.ValueOf(b.node.state.Tree()).Elem().FieldByName("waiters").Len(), "prefixes that no Wait watches")
}
