package raftstore

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
)

// Close ends calls under way with ErrClosed, and every goroutine.
func TestBackendCloseEndsEverything(t *testing.T) {
	tc := newTestCluster(t, 3, nil)
	ctx := testCtx(t)
	b := tc.node[tc.follower()]
	s, err := b.Snapshot(ctx, "")
	require.NoError(t, err)
	waiting := make(chan error, 1)
	go func() {
		_, err := b.Wait(ctx, "never", s.Revision)
		waiting <- err
	}()
	// A call that nobody answers.
	b.node.setTap(func(_ context.Context, e tapEvent) bool { return e.op != opPropose })
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

// A leader that is closed hands the lead over: long before the others could
// notice by themselves that it has gone.
func TestCloseHandsTheLeadOver(t *testing.T) {
	tc := newTestCluster(t, 3, func(_ int, c *Config, _ *nodeDeps) {
		c.Timing = dcs.Timing{TTL: 60 * time.Second, LoopWait: 5 * time.Second, RetryTimeout: 20 * time.Second}
		c.HeartbeatTimeout = 1500 * time.Millisecond
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
	require.Less(t, begun.Elapsed(), time.Second, "less than the heartbeat timeout: nobody had to notice")
}

// A frozen follower does not inherit, and does not hold the close up.
func TestTheHeirIsOneThatAnswers(t *testing.T) {
	tc := newTestCluster(t, 3, func(_ int, c *Config, _ *nodeDeps) { c.HeartbeatTimeout = 500 * time.Millisecond })
	at := tc.leader()
	n := tc.node[at].node
	for i := range tc.node {
		if i == at {
			continue
		}
		silent := tc.node[i].node.wireAddr()
		n.setTap(func(_ context.Context, e tapEvent) bool { return e.addr != silent })
		first, ok := n.member().firstToAnswer(testCtx(t))
		require.True(t, ok)
		require.NotEqual(t, silent, first.addr)
		require.NotEqual(t, n.member().id, first.id)
	}
	n.setTap(func(_ context.Context, e tapEvent) bool { return false })
	_, ok := n.member().firstToAnswer(testCtx(t))
	require.False(t, ok, "nobody answers")
	n.setTap(nil)
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

// What is wrong at the start is said at once, and nothing stays open.
func TestNewRefusesAtOnce(t *testing.T) {
	c := clusterConfigs(t, 1)[0]
	ln, err := net.Listen("tcp", c.Peers[0].Addr)
	require.NoError(t, err)
	_, err = New(testCtx(t), c)
	require.ErrorIs(t, err, dcs.ErrUnavailable)
	require.ErrorContains(t, err, "port is in use")
	ln.Close()

	b, err := New(testCtx(t), c) // the directory was given free again
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

// A log entry of a newer release stops the node, in words, and the others go
// on without it: whether it followed or led.
func TestNodeStopsAtAnEntryItCanNotRead(t *testing.T) {
	parallel(t)
	for _, which := range []string{"follower", "leader"} {
		t.Run(which, func(t *testing.T) {
			var logs [3]lockedBuffer
			tc := newTestCluster(t, 3, func(i int, c *Config, _ *nodeDeps) {
				c.Logger = slog.New(slog.NewTextHandler(&logs[i], nil))
			})
			ctx := testCtx(t)
			at := tc.leader()
			if which == "follower" {
				at = tc.follower()
			}
			stopped, other := tc.node[at], tc.node[(at+1)%3]
			// The others have no such entry: only the reading of it can fail alone.
			stopped.node.state.Apply(&raft.Log{Type: raft.LogCommand, Data: []byte{state.Level + 1}})
			_, err := other.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", []byte("v"))}})
			require.NoError(t, err)
			tc.eventually(func() bool { return stopped.node.state.Failed() != nil }, "the node did not stop")

			// Its calls go to the others, once they have a leader, also when its own
			// Raft has heard of none for long; a Wait, which is served from its own
			// state, does not.
			tc.eventually(func() bool { return stopped.Status().LeaderID == "" }, "Raft knows a leader though nobody is heard")
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

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
