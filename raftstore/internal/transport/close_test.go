package transport

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

func TestCloseConns(t *testing.T) {
	checkGoroutines(t)
	a, b := startPair(t)
	mustCall(t, a, b.Addr(), "x")
	dialled, accepted := raftPair(t, a, b)
	entered := make(chan struct{})
	ended := make(chan error, 1)
	b.Serve(func(ctx context.Context, _ byte, _ []byte) []byte {
		close(entered)
		<-ctx.Done() // the connection's end reaches the handler
		ended <- ctx.Err()
		return nil
	})
	failed := make(chan error, 1)
	go func() {
		_, err := a.Call(testContext(t), b.Addr(), 1, nil)
		failed <- err
	}()
	<-entered
	b.closeConns()
	err := <-failed
	require.Error(t, err)
	require.NotErrorIs(t, err, ErrNotSent, "it had been sent: unclear")
	require.ErrorIs(t, <-ended, context.Canceled)
	for _, conn := range []net.Conn{dialled, accepted} {
		_, err := conn.Read(make([]byte, 1))
		require.Error(t, err)
	}
	require.Empty(t, b.Conns())

	b.Serve(echo)
	mustCall(t, a, b.Addr(), "a new connection")
}

func TestGate(t *testing.T) {
	a, b := startPair(t)
	mustCall(t, a, b.Addr(), "x")
	stalled := errors.New("the disk stalls")
	b.Gate(KindRaft, stalled)
	mustCall(t, a, b.Addr(), "calls go on")
	b.Gate(KindCall, stalled)
	_, err := b.Call(testContext(t), a.Addr(), 1, nil)
	require.ErrorIs(t, err, stalled)
	require.ErrorIs(t, err, ErrNotSent)
	_, err = b.raftLayer().Dial(raft.ServerAddress(a.Addr()), time.Second)
	require.ErrorIs(t, err, stalled)
	require.Eventually(t, func() bool { // the broken connection is noticed first
		_, err = a.Call(testContext(t), b.Addr(), 1, nil)
		return errors.Is(err, ErrNotSent)
	}, 10*time.Second, time.Millisecond)
	mustCall(t, b, b.Addr(), "own calls go on")
	require.Empty(t, b.Conns())

	b.Gate(KindCall, nil)
	require.Eventually(t, func() bool {
		_, err := a.Call(testContext(t), b.Addr(), 1, nil)
		return err == nil
	}, 10*time.Second, time.Millisecond)
}

func TestRaftLayerCloseLeavesCalls(t *testing.T) {
	a, b := startPair(t)
	dialled, _ := raftPair(t, a, b)
	mustCall(t, a, b.Addr(), "x")
	require.NoError(t, b.raftLayer().Close())
	_, err := b.raftLayer().Accept()
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = b.raftLayer().Dial(raft.ServerAddress(a.Addr()), time.Second)
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = dialled.Read(make([]byte, 1))
	require.Error(t, err)
	mustCall(t, a, b.Addr(), "calls go on")
}

func TestCloseEndsEverything(t *testing.T) {
	checkGoroutines(t)
	a, b := startPair(t)
	mustCall(t, a, b.Addr(), "x")
	accepting := make(chan error, 1)
	go func() {
		_, err := b.raftLayer().Accept()
		accepting <- err
	}()
	silent, err := net.Dial("tcp", b.Addr())
	require.NoError(t, err)
	defer silent.Close()
	require.NoError(t, b.Close())
	require.NoError(t, b.Close(), "idempotent")
	require.ErrorIs(t, <-accepting, net.ErrClosed)
	_, err = b.Call(testContext(t), a.Addr(), 1, nil)
	require.ErrorIs(t, err, ErrNotSent)
	require.ErrorIs(t, err, errNetworkClosed)
	_, err = b.Call(testContext(t), b.Addr(), 1, nil)
	require.ErrorIs(t, err, ErrNotSent, "its own too")
	again, err := net.Listen("tcp", b.Addr())
	require.NoError(t, err, "the port is free")
	again.Close()
}

func TestCloseIsBounded(t *testing.T) {
	a, b := startPair(t)
	entered, release := make(chan struct{}), make(chan struct{})
	b.Serve(func(context.Context, byte, []byte) []byte {
		close(entered)
		<-release // heeds no context
		return nil
	})
	go func() { _, _ = a.Call(testContext(t), b.Addr(), 1, nil) }()
	<-entered
	start := time.Now()
	err := b.Close()
	require.ErrorContains(t, err, "did not end")
	require.Less(t, time.Since(start), closeBound+time.Second)
	close(release)
	require.Equal(t, err, b.Close())
	b.closed = nil // or the cleanup would repeat the answer
}
