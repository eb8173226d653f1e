package raftstore

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
	mustCall(t, a, b.addr(), "x")
	dialled, accepted := raftPair(t, a, b)
	entered := make(chan struct{})
	ended := make(chan error, 1)
	b.serve(func(ctx context.Context, _ byte, _ []byte) []byte {
		close(entered)
		<-ctx.Done() // the connection's end reaches the one who answers
		ended <- ctx.Err()
		return nil
	})
	failed := make(chan error, 1)
	go func() {
		_, err := a.call(testContext(t), b.addr(), 1, nil)
		failed <- err
	}()
	<-entered
	b.closeConns()
	err := <-failed
	require.Error(t, err)
	require.NotErrorIs(t, err, errNotSent, "it had been sent: unclear")
	require.ErrorIs(t, <-ended, context.Canceled)
	for _, conn := range []net.Conn{dialled, accepted} {
		_, err := conn.Read(make([]byte, 1))
		require.Error(t, err)
	}
	require.Empty(t, b.conns())

	b.serve(echo)
	mustCall(t, a, b.addr(), "a new connection")
}

func TestGate(t *testing.T) {
	a, b := startPair(t)
	mustCall(t, a, b.addr(), "x")
	stalled := errors.New("the disk stalls")
	b.gate(kindRaft, stalled)
	mustCall(t, a, b.addr(), "calls go on")
	b.gate(kindCall, stalled)
	_, err := b.call(testContext(t), a.addr(), 1, nil)
	require.ErrorIs(t, err, stalled)
	require.ErrorIs(t, err, errNotSent)
	_, err = b.raftLayer().Dial(raft.ServerAddress(a.addr()), time.Second)
	require.ErrorIs(t, err, stalled)
	require.Eventually(t, func() bool { // the broken connection is noticed first
		_, err = a.call(testContext(t), b.addr(), 1, nil)
		return errors.Is(err, errNotSent)
	}, 10*time.Second, time.Millisecond)
	mustCall(t, b, b.addr(), "own calls go on")
	require.Empty(t, b.conns())

	b.gate(kindCall, nil)
	require.Eventually(t, func() bool {
		_, err := a.call(testContext(t), b.addr(), 1, nil)
		return err == nil
	}, 10*time.Second, time.Millisecond)
}

func TestRaftLayerCloseLeavesCalls(t *testing.T) {
	a, b := startPair(t)
	dialled, _ := raftPair(t, a, b)
	mustCall(t, a, b.addr(), "x")
	require.NoError(t, b.raftLayer().Close())
	_, err := b.raftLayer().Accept()
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = b.raftLayer().Dial(raft.ServerAddress(a.addr()), time.Second)
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = dialled.Read(make([]byte, 1))
	require.Error(t, err)
	mustCall(t, a, b.addr(), "calls go on")
}

func TestCloseEndsEverything(t *testing.T) {
	checkGoroutines(t)
	a, b := startPair(t)
	mustCall(t, a, b.addr(), "x")
	accepting := make(chan error, 1)
	go func() {
		_, err := b.raftLayer().Accept()
		accepting <- err
	}()
	silent, err := net.Dial("tcp", b.addr())
	require.NoError(t, err)
	defer silent.Close()
	require.NoError(t, b.close())
	require.NoError(t, b.close(), "idempotent")
	require.ErrorIs(t, <-accepting, net.ErrClosed)
	_, err = b.call(testContext(t), a.addr(), 1, nil)
	require.ErrorIs(t, err, errNotSent)
	require.ErrorIs(t, err, errNetworkClosed)
	_, err = b.call(testContext(t), b.addr(), 1, nil)
	require.ErrorIs(t, err, errNotSent, "its own too")
	again, err := net.Listen("tcp", b.addr())
	require.NoError(t, err, "the port is free")
	again.Close()
}

func TestCloseIsBounded(t *testing.T) {
	a, b := startPair(t)
	entered, release := make(chan struct{}), make(chan struct{})
	b.serve(func(context.Context, byte, []byte) []byte {
		close(entered)
		<-release // heeds no context
		return nil
	})
	go func() { _, _ = a.call(testContext(t), b.addr(), 1, nil) }()
	<-entered
	start := time.Now()
	err := b.close()
	require.ErrorContains(t, err, "did not end")
	require.Less(t, time.Since(start), closeBound+time.Second)
	close(release)
	require.Equal(t, err, b.close())
	b.closed = nil // or the cleanup would repeat the answer
}
