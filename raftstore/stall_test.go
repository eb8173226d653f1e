package raftstore

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk/disktest"
)

// diskCluster is a cluster whose nodes have file systems in memory.
func diskCluster(t *testing.T, size int) (*testCluster, []*disktest.FS) {
	t.Helper()
	files := make([]*disktest.FS, size)
	for i := range files {
		files[i] = disktest.New()
	}
	tc := newTestCluster(t, size, func(i int, c *Config, h *hooks) {
		c.Dir, *h = fmt.Sprintf("/data/%d", i), memoryHooks(files[i])
	})
	tc.well()
	return tc, files
}

// bounded calls f with a context of that budget.
func bounded(t *testing.T, budget time.Duration, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(t.Context(), budget)
	defer cancel()
	return f(ctx)
}

// The disk of the leader hangs. Another node leads soon, a held lease stays, commits
// through every node succeed, and the node is well again soon after its disk works.
func TestLeaderWhoseDiskHangs(t *testing.T) {
	tc, files := diskCluster(t, 3)
	heartbeat := tc.config[0].HeartbeatTimeout
	at := tc.leader()
	stalled, other := tc.node[at], tc.node[(at+1)%3]
	lease, _, err := stalled.Grant(testCtx(t), 3*time.Second) // over the node that hangs
	require.NoError(t, err)
	token, err := stalled.Commit(testCtx(t), dcs.Txn{Then: []dcs.Write{dcs.PutLeased("lock", nil, lease.ID())}})
	require.NoError(t, err)

	release := files[at].Block(disktest.Any(disktest.Changes()...))
	t.Cleanup(release) // before the nodes are closed
	hung := dcs.Now()
	// A write makes the disk notice.
	_ = bounded(t, 100*time.Millisecond, func(ctx context.Context) error {
		_, err := stalled.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", []byte("0"))}})
		return err
	})
	tc.eventually(func() bool { return other.Status().LeaderID != "" && other.Status().LeaderID != tc.config[at].ID }, "no other node leads")
	took := hung.Elapsed()
	t.Logf("another node led %v after the disk hung", took.Round(time.Millisecond))
	require.Less(t, took, 2*time.Second+4*heartbeat)
	require.Equal(t, SteppedOut, stalled.Status().Health.State)

	renewed := dcs.Now()
	for n := 0; hung.Elapsed() < 6*time.Second; n++ {
		b := tc.node[n%3]
		require.NoError(t, bounded(t, testTiming.RetryTimeout, func(ctx context.Context) error {
			_, err := b.Commit(ctx, dcs.Txn{If: []dcs.Cond{dcs.CreatedAt("lock", token)}, Then: []dcs.Write{dcs.Put("k", []byte{byte(n)})}})
			return err
		}), "a commit through node %d", n%3)
		if renewed.Elapsed() > time.Second {
			renewed = dcs.Now()
			_, err := lease.Renew(testCtx(t), "lock")
			require.NoError(t, err, "a renewal over the node whose disk hangs")
		}
	}

	release()
	back := dcs.Now()
	want, err := other.Snapshot(testCtx(t), "")
	require.NoError(t, err)
	tc.eventually(func() bool {
		return stalled.Status().Health.State == Well && dcs.Revision(stalled.node.state.Applied()) >= want.Revision
	}, "the node does not come back")
	t.Logf("it was back %v after its disk", back.Elapsed().Round(time.Millisecond))
	require.Less(t, back.Elapsed(), 10*time.Second)
}

// If the disks of all nodes hang, the leader stays. Leases are renewed, and pending writes
// complete when the disks work again.
func TestAllDisksHang(t *testing.T) {
	tc, files := diskCluster(t, 3)
	at := tc.leader()
	b := tc.node[(at+1)%3]
	lease, _, err := b.Grant(testCtx(t), 2*time.Second)
	require.NoError(t, err)
	term := tc.node[at].Status().Term
	var releases []func()
	for _, f := range files {
		releases = append(releases, f.Block(disktest.Any(disktest.Changes()...)))
		t.Cleanup(releases[len(releases)-1]) // before the nodes are closed
	}
	for hung := dcs.Now(); hung.Elapsed() < 5*time.Second; {
		_ = bounded(t, 500*time.Millisecond, func(ctx context.Context) error {
			_, err := b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
			return err
		})
		_, err := lease.Renew(testCtx(t))
		require.NoError(t, err)
	}
	require.Equal(t, Stalled, tc.node[at].Status().Health.State)
	for _, release := range releases {
		release()
	}
	require.NoError(t, bounded(t, testTiming.RetryTimeout, func(ctx context.Context) error {
		_, err := b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
		return err
	}))
	require.Equal(t, term, tc.node[at].Status().Term, "there was an election")
}

// The disk of every node is full, for longer than any call waits. There is no election
// meanwhile. When there is room again, writes succeed without a restart.
func TestDisksAreFull(t *testing.T) {
	tc, files := diskCluster(t, 3)
	at := tc.leader()
	b := tc.node[at]
	term := b.Status().Term
	var restores []func()
	for _, f := range files {
		restores = append(restores, f.Fail(disktest.Any(disktest.Write, disktest.Create, disktest.Allocate), syscall.ENOSPC))
	}
	for full := dcs.Now(); full.Elapsed() < 4*time.Second; {
		require.Error(t, bounded(t, time.Second, func(ctx context.Context) error {
			_, err := b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
			return err
		}))
	}
	require.ErrorIs(t, b.Status().Disk.Fault, syscall.ENOSPC)
	require.Equal(t, term, b.Status().Term, "there was an election while the disks were full")
	for _, restore := range restores {
		restore()
	}
	room := dcs.Now()
	require.NoError(t, bounded(t, testTiming.RetryTimeout, func(ctx context.Context) error {
		_, err := b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
		return err
	}))
	t.Logf("a commit succeeded %v after there was room", room.Elapsed().Round(time.Millisecond))
	require.Less(t, room.Elapsed(), 2*mostRepair)
	require.LessOrEqual(t, b.Status().Term, term+1, "a node whose disk has room earlier may lead")
}

// A follower stores nothing while the leader's disk hangs. To answer the question whether
// its own works, it writes.
func TestQuestionForTheDiskWrites(t *testing.T) {
	tc, files := diskCluster(t, 3)
	leader, at := tc.node[tc.leader()].node, tc.follower()
	addr := tc.node[at].node.wireAddr()
	ask := func(budget time.Duration) (well bool) {
		_ = bounded(t, budget, func(ctx context.Context) error {
			said, err := leader.askFor(ctx, addr, opDisk)
			well = err == nil && said.well
			return nil
		})
		return well
	}
	tc.eventually(func() bool { return ask(testTiming.RetryTimeout) }, "its disk works")
	release := files[at].Block(disktest.Any(disktest.Changes()...))
	t.Cleanup(release) // before the nodes are closed
	require.False(t, ask(300*time.Millisecond), "its disk hangs")
	require.False(t, ask(300*time.Millisecond), "and one write is enough to know")
	release()
	tc.eventually(func() bool { return ask(testTiming.RetryTimeout) }, "its disk works again")
}
