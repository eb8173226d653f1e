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

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Close ends calls under way with ErrClosed, and every goroutine.
func TestBackendCloseEndsEverything(t *testing.T) {
	tc := newTestCluster(t, 3, nil)
	ctx := testCtx(t)
	b := tc.node[tc.follower()]
	_, err := b.Snapshot(ctx, "")
	require.NoError(t, err)
	waiting := make(chan error, 1)
	go func() {
		_, err := b.Wait(ctx, "never", 0)
		waiting <- err
	}()
	// A call that nobody answers.
	b.node.net.setTap(func(_ context.Context, e tapEvent) bool { return e.op != opPropose })
	committing := make(chan error, 1)
	go func() {
		_, err := b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
		committing <- err
	}()
	tc.eventually(func() bool {
		b.node.route.mu.Lock()
		defer b.node.route.mu.Unlock()
		return len(b.node.route.attempts) > 0
	}, "the call does not begin")
	begun := dcs.Now()
	require.NoError(t, b.Close())
	require.NoError(t, b.Close(), "Close may be repeated")
	require.Less(t, begun.Elapsed(), shutdownBound+closeBound)
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
		return !strings.Contains(stacks(), "raftstore.(*") && !strings.Contains(stacks(), "hashicorp/raft")
	},
		"goroutines are left")
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

	done, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = New(done, c)
	require.ErrorIs(t, err, context.Canceled)
}

// A log entry of a newer release stops the node, in words, and the others go
// on without it.
func TestNodeStopsAtAnEntryItCanNotRead(t *testing.T) {
	var log lockedBuffer
	tc := newTestCluster(t, 1, func(_ int, c *Config, _ *wiring) {
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	tc.leader()
	b := tc.node[0]
	newer := (&command{kind: cmdTerm}).encode()
	newer[0] = commandVersion + 1
	require.NoError(t, b.node.raft.Apply(newer, 0).Error())
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	_, err := b.Get(ctx, "k")
	require.ErrorIs(t, err, dcs.ErrUnavailable)
	require.ErrorContains(t, err, "format version 2")
	require.Contains(t, log.String(), "this node stops")
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
