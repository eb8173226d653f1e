package raftstore

import (
	"context"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance/fault"
	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
)

// Close ends calls in progress with ErrClosed, and every goroutine.
func TestBackendCloseEndsEverything(t *testing.T) {
	tc := newTestCluster(t, 3, nil)
	ctx := testCtx(t)
	b := tc.node[tc.follower()]
	s, err := b.Snapshot(ctx, "")
	require.NoError(t, err)
	// No node answers a commit.
	b.node.setCallHook(func(_ context.Context, e callEvent) bool { return e.op != opPropose })
	waiting := make(chan error, 1)
	go func() {
		_, err := b.Wait(ctx, "never", s.Revision)
		waiting <- err
	}()
	committing := make(chan error, 1)
	go func() {
		_, err := b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
		committing <- err
	}()
	tc.eventually(func() bool {
		b.node.leaderWatch.mu.Lock()
		defer b.node.leaderWatch.mu.Unlock()
		return len(b.node.leaderWatch.attempts) > 0
	}, "the call does not begin")
	begun := dcs.Now()
	require.NoError(t, b.Close())
	require.NoError(t, b.Close(), "Close may be repeated")
	require.Less(t, begun.Elapsed(), 2*shutdownBound)
	require.ErrorIs(t, <-waiting, dcs.ErrClosed)
	require.ErrorIs(t, <-committing, dcs.ErrClosed)
	_, err = b.Get(ctx, "k")
	require.ErrorIs(t, err, dcs.ErrClosed)
	_, err = b.Wait(ctx, "k", 0)
	require.ErrorIs(t, err, dcs.ErrClosed)
	_, err = b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
	require.ErrorIs(t, err, dcs.ErrClosed)
	_, _, err = b.Grant(ctx, time.Second)
	require.ErrorIs(t, err, dcs.ErrClosed)
	tc.stopAll()
	tc.eventually(func() bool {
		left := stacks()
		return !strings.Contains(left, "raftstore.(*") && !strings.Contains(left, "transport.(*") && !strings.Contains(left, "hashicorp/raft")
	},
		"goroutines are left")
}

// A leader that is closed transfers the leadership, long before the others could detect
// that it has gone.
func TestCloseTransfersLeadership(t *testing.T) {
	tc := newTestCluster(t, 3, func(_ int, c *Config, _ *hooks) {
		c.Timing = dcs.Timing{TTL: 60 * time.Second, LoopWait: 5 * time.Second, RetryTimeout: 20 * time.Second}
		c.HeartbeatTimeout = 2500 * time.Millisecond
	})
	ctx := testCtx(t)
	at := tc.leader()
	other := tc.node[(at+1)%3]
	_, err := other.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", []byte("v"))}})
	require.NoError(t, err)
	begun := dcs.Now()
	tc.stop(at)
	e, err := other.Get(ctx, "k")
	require.NoError(t, err)
	require.Equal(t, "v", string(e.Value))
	t.Logf("closed and led by another after %v", begun.Elapsed())
	require.Less(t, begun.Elapsed(), 2*time.Second, "the others had to detect the loss of the leader")
}

// A frozen follower does not become the leader, and does not delay Close.
func TestCloseTransfersToANodeThatAnswers(t *testing.T) {
	tc := newTestCluster(t, 3, func(_ int, c *Config, _ *hooks) { c.HeartbeatTimeout = 500 * time.Millisecond })
	at := tc.leader()
	n := tc.node[at].node
	for i := range tc.node {
		if i == at {
			continue
		}
		silent := tc.node[i].node.wireAddr()
		n.setCallHook(func(_ context.Context, e callEvent) bool { return e.addr != silent })
		first, ok := n.member().firstToAnswer(testCtx(t))
		require.True(t, ok)
		require.NotEqual(t, silent, first.addr)
		require.NotEqual(t, n.member().id, first.id)
	}
	n.setCallHook(func(_ context.Context, e callEvent) bool { return false })
	_, ok := n.member().firstToAnswer(testCtx(t))
	require.False(t, ok, "nobody answers")
	n.setCallHook(nil)
}

// stacks returns the stacks of all goroutines but the tests' own.
func stacks() string {
	buf := make([]byte, 1<<20)
	var out []string
	for s := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if !strings.Contains(s, "testing.tRunner") && !strings.Contains(s, "testify") {
			out = append(out, s)
		}
	}
	return strings.Join(out, "\n\n")
}

// Faults at the start are reported at once, and nothing stays open.
func TestNewRefusesAtOnce(t *testing.T) {
	c := clusterConfigs(t, 1)[0]
	ln, err := net.Listen("tcp", c.Peers[0].Addr)
	require.NoError(t, err)
	_, err = New(testCtx(t), c)
	require.ErrorIs(t, err, dcs.ErrUnavailable)
	require.ErrorContains(t, err, "port is in use")
	fault.CloseListener(ln)

	b, err := New(testCtx(t), c) // the directory was unlocked
	require.NoError(t, err)
	twin := c
	twin.Peers, twin.Listen = nil, "127.0.0.1:0"
	_, err = New(testCtx(t), twin)
	require.ErrorContains(t, err, "in use by another process")
	require.NoError(t, b.Close())

	wrong := c
	wrong.ID, wrong.MinTTL = "", time.Nanosecond
	_, err = New(testCtx(t), wrong)
	require.ErrorIs(t, err, dcs.ErrInvalid)
	require.ErrorContains(t, err, "ID is empty")
	require.ErrorContains(t, err, "MinTTL")
	foreign := c
	foreign.Listen, foreign.PlaintextBeyondLoopback = "203.0.113.7:7001", true
	_, err = New(testCtx(t), foreign)
	require.ErrorIs(t, err, dcs.ErrInvalid)
	require.ErrorContains(t, err, "no address of this machine")

	done, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = New(done, c)
	require.ErrorIs(t, err, context.Canceled)
}

// A log entry of a newer release stops a node, follower or leader, with an error, and
// the others continue without it.
func TestNodeStopsAtAnUnreadableEntry(t *testing.T) {
	parallel(t)
	for _, which := range []string{"follower", "leader"} {
		t.Run(which, func(t *testing.T) {
			var logs [3]testcluster.Log
			tc := newTestCluster(t, 3, func(i int, c *Config, _ *hooks) {
				c.Logger = slog.New(slog.NewTextHandler(&logs[i], nil))
			})
			ctx := testCtx(t)
			at := tc.leader()
			if which == "follower" {
				at = tc.follower()
			}
			stopped, other := tc.node[at], tc.node[(at+1)%3]
			// The others have no such entry. Only reading can fail on a single node.
			stopped.node.state.Apply(&raft.Log{Type: raft.LogCommand, Data: []byte{state.Level + 1}})
			_, err := other.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", []byte("v"))}})
			require.NoError(t, err)
			tc.eventually(func() bool { return stopped.node.state.Failed() != nil }, "the node did not stop")

			// Its calls go to the others, once they have a leader, even if its own Raft
			// has heard of none for long. A Wait does not, because it is served from the
			// node's own state.
			tc.eventually(func() bool { return stopped.Status().LeaderID == "" }, "Raft still knows a leader, although none is heard")
			e, err := stopped.Get(ctx, "k")
			require.NoError(t, err)
			require.Equal(t, "v", string(e.Value))
			soon, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			_, err = stopped.Wait(soon, "k", e.Modified)
			require.Error(t, err)
			require.Equal(t, Failed, stopped.Status().Health.State)
			require.ErrorContains(t, stopped.node.state.Failed(), "format version 2")
			tc.eventually(func() bool { return strings.Contains(logs[at].String(), "state=failed") }, "nothing was logged")
			for i := range tc.node {
				if i == at {
					continue
				}
				_, err = tc.node[i].Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("after", nil)}})
				require.NoError(t, err)
				e, err := tc.node[i].Get(ctx, "k")
				require.NoError(t, err)
				require.Equal(t, "v", string(e.Value))
			}
		})
	}
}
