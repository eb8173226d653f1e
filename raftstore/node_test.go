package raftstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// A lease and the keys bound to it survive the loss of the Raft leader, and no call of
// the holder fails.
func TestLeaderIsLostAndTheLeaseIsKept(t *testing.T) {
	tc := newTestCluster(t, 3, nil)
	ctx := testCtx(t)
	old := tc.leader()
	holder := tc.node[tc.follower()]
	lease, _, err := holder.Grant(ctx, 3*time.Second)
	require.NoError(t, err)
	token, err := holder.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.PutLeased("lock", nil, lease.ID())}})
	require.NoError(t, err)
	tc.stop(old)
	r, err := lease.Renew(ctx, "lock")
	require.NoError(t, err)
	e, held := r.Entry("lock")
	require.True(t, held)
	require.Equal(t, token, e.Created)
	_, err = holder.Commit(ctx, dcs.Txn{If: []dcs.Cond{dcs.CreatedAt("lock", token)}, Then: []dcs.Write{dcs.Put("fenced", nil)}})
	require.NoError(t, err)
	// The lost node comes back and serves.
	back := tc.start(old)
	e, err = back.Get(ctx, "lock")
	require.NoError(t, err)
	require.Equal(t, token, e.Created)
}

// An unrenewed lease ends, by the new leader's clock too, and not early.
func TestLeaseEndsOverAChangeOfLeader(t *testing.T) {
	tc := newTestCluster(t, 3, nil)
	ctx := testCtx(t)
	old := tc.leader()
	other := tc.node[tc.follower()]
	lease, granted, err := other.Grant(ctx, time.Second)
	require.NoError(t, err)
	rev, err := other.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.PutLeased("lock", nil, lease.ID())}})
	require.NoError(t, err)
	tc.stop(old)
	s, err := other.Wait(ctx, "lock", rev)
	for err == nil && len(s.Entries) > 0 {
		s, err = other.Wait(ctx, "lock", s.Revision)
	}
	require.NoError(t, err)
	require.Greater(t, granted.From.Elapsed(), granted.TTL)
	_, err = lease.Renew(ctx)
	require.ErrorIs(t, err, dcs.ErrLost)
}

// All acknowledged writes are present after a restart of all nodes, and revisions still
// rise.
func TestRestartOfAllNodes(t *testing.T) {
	tc := newTestCluster(t, 3, nil)
	ctx := testCtx(t)
	var last dcs.Revision
	for i := range 30 {
		rev, err := tc.node[i%3].Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put(fmt.Sprintf("k/%02d", i), []byte{byte(i)})}})
		require.NoError(t, err)
		require.Greater(t, rev, last)
		last = rev
	}
	before, err := tc.node[0].Snapshot(ctx, "k")
	require.NoError(t, err)
	tc.stopAll()
	for i := range 3 {
		tc.start(i)
	}
	after, err := tc.node[1].Snapshot(ctx, "k")
	require.NoError(t, err)
	require.Equal(t, before.Entries, after.Entries)
	rev, err := tc.node[2].Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Delete("k/00")}})
	require.NoError(t, err)
	require.Greater(t, rev, last)
	// Wait on a node that has just started returns no older state than before its end.
	s, err := tc.node[0].Wait(ctx, "k", last)
	require.NoError(t, err)
	require.GreaterOrEqual(t, s.Revision, rev)
	require.Len(t, s.Entries, 29)
}

// A node that was away while the log was cut gets a snapshot that includes clients and
// leases. So does a node that reads its own snapshot at the start.
func TestSnapshotIsRestored(t *testing.T) {
	parallel(t)
	var installed atomic.Int32
	tc := newTestCluster(t, 3, func(_ int, c *Config, h *hooks) {
		c.SnapshotThreshold, c.SnapshotInterval = 20, 20*time.Millisecond
		h.transport = func(t raft.Transport) raft.Transport {
			return &countingTransport{Transport: t, WithPreVote: t.(raft.WithPreVote), installed: &installed}
		}
	})
	ctx := testCtx(t)
	away := tc.follower()
	leader := tc.node[tc.leader()]
	lease, _, err := leader.Grant(ctx, time.Minute)
	require.NoError(t, err)
	tc.stop(away)
	for i := range 200 {
		_, err := leader.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.PutLeased(fmt.Sprintf("k/%d", i%7), []byte{byte(i)}, lease.ID())}})
		require.NoError(t, err)
	}
	tc.eventually(func() bool {
		for _, b := range tc.node { // whichever leads by then
			if b == nil {
				continue
			}
			if b.node.member().log.First() <= 50 {
				return false
			}
		}
		return true
	}, "the logs are never cut")
	back := tc.start(away)
	want, err := leader.Snapshot(ctx, "")
	require.NoError(t, err)
	require.NoError(t, back.node.await(ctx, want.Revision))
	require.Equal(t, want.Entries, back.node.state.Tree().Snapshot("").Entries)
	require.NotZero(t, installed.Load(), "it caught up without a snapshot")
	// All start from their own snapshots, and the client continues.
	tc.stopAll()
	for i := range 3 {
		tc.start(i)
	}
	got, err := tc.node[away].Snapshot(ctx, "")
	require.NoError(t, err)
	require.Equal(t, want.Entries, got.Entries)
	again := &leaseHandle{b: &tc.node[away].frontend, id: lease.ID()}
	_, err = again.Renew(ctx)
	require.NoError(t, err, "the snapshot lost a lease")
	// Alone, a node cannot know the age of its snapshot, so Wait must not return it.
	tc.stopAll()
	alone := tc.start(away)
	require.NotEmpty(t, alone.node.state.Tree().Snapshot("").Entries)
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	s, err := alone.Wait(short, "", 0)
	require.Equal(t, context.DeadlineExceeded, err, "%v", s)
}

// countingTransport counts the snapshots that are sent.
type countingTransport struct {
	raft.Transport
	raft.WithPreVote
	installed *atomic.Int32
}

func (c *countingTransport) InstallSnapshot(id raft.ServerID, to raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	c.installed.Add(1)
	return c.Transport.InstallSnapshot(id, to, req, resp, data)
}

func TestStatusNamesTheLeader(t *testing.T) {
	tc := newTestCluster(t, 3, nil)
	ctx := testCtx(t)
	l := tc.leader()
	rev, err := tc.node[tc.follower()].Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
	require.NoError(t, err)
	for i, b := range tc.node {
		require.NoError(t, b.node.await(ctx, rev))
		s := b.Status()
		require.Equal(t, tc.config[i].ID, s.ID)
		require.Equal(t, tc.config[l].ID, s.LeaderID)
		require.Equal(t, i == l, s.State == "Leader")
		require.GreaterOrEqual(t, s.Applied, uint64(rev))
		require.Len(t, s.Voters, 3)
		require.NotZero(t, s.Disk.Writes)
	}
}

// A renewal writes nothing to any disk.
func TestRenewalsTouchNoDisk(t *testing.T) {
	tc := newTestCluster(t, 3, func(_ int, c *Config, _ *hooks) { c.HeartbeatTimeout = 3 * time.Second })
	ctx := testCtx(t)
	for _, i := range []int{tc.leader(), tc.follower()} {
		lease, _, err := tc.node[i].Grant(ctx, time.Minute)
		require.NoError(t, err)
		tc.settled()
		writes := func() (n uint64) {
			for _, b := range tc.node {
				n += b.Status().Disk.Writes
			}
			return n
		}
		before := writes()
		for range 50 {
			_, err := lease.Renew(ctx, "k")
			require.NoError(t, err)
		}
		require.Equal(t, before, writes())
	}
}

// settled waits until every node has the leader's whole log.
func (tc *testCluster) settled() {
	l := tc.node[tc.leader()]
	tc.eventually(func() bool {
		for _, b := range tc.node {
			if b == nil {
				continue
			}
			if m := b.node.member(); m == nil || m.raft.LastIndex() != l.node.member().raft.LastIndex() {
				return false
			}
		}
		return true
	}, "the nodes' logs differ")
}

// Without a quorum every call ends by its budget with ErrUnavailable, and a Wait after
// RetryTimeout of silence.
func TestNoQuorum(t *testing.T) {
	tc := newTestCluster(t, 3, func(_ int, c *Config, _ *hooks) {
		c.Timing = dcs.Timing{TTL: 5 * time.Second, LoopWait: time.Second, RetryTimeout: time.Second}
	})
	ctx := testCtx(t)
	left := tc.leader()
	b := tc.node[left]
	lease, _, err := b.Grant(ctx, 3*time.Second)
	require.NoError(t, err)
	_, err = b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
	require.NoError(t, err)
	s, err := b.Wait(ctx, "k", 0)
	require.NoError(t, err)
	waiting := make(chan error, 1)
	go func() {
		_, err := b.Wait(ctx, "never", s.Revision)
		waiting <- err
	}()
	for i := range tc.node {
		if i != left {
			tc.stop(i)
		}
	}
	calls := map[string]func() error{
		"Get":      func() error { _, err := b.Get(ctx, "k"); return err },
		"Snapshot": func() error { _, err := b.Snapshot(ctx, ""); return err },
		"Commit":   func() error { _, err := b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}}); return err },
		"Grant":    func() error { _, _, err := b.Grant(ctx, time.Second); return err },
		"Renew":    func() error { _, err := lease.Renew(ctx, "k"); return err },
		"Revoke":   func() error { return lease.Revoke(ctx) },
	}
	var wg sync.WaitGroup
	for name, call := range calls {
		wg.Go(func() {
			begun := dcs.Now()
			err := call()
			if !errors.Is(err, dcs.ErrUnavailable) || errors.Is(err, dcs.ErrLost) {
				t.Errorf("%s: %v", name, err)
			}
			if took := begun.Elapsed(); took > 1500*time.Millisecond {
				t.Errorf("%s took %v", name, took)
			}
		})
	}
	wg.Wait()
	err = <-waiting
	require.ErrorIs(t, err, dcs.ErrUnavailable)
	require.NotErrorIs(t, err, context.DeadlineExceeded)
}
