package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCallsAreConcurrent(t *testing.T) {
	a, b := startPair(t)
	var inside atomic.Int32
	all := make(chan struct{})
	const callers = 64
	b.Serve(func(ctx context.Context, _ byte, body []byte) []byte {
		if inside.Add(1) == callers {
			close(all)
		}
		select {
		case <-all: // no call is answered before all are here
		case <-ctx.Done():
		}
		return body
	})
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			body := strings.Repeat(fmt.Sprint(i), 1+i*500)
			reply, err := a.Call(testContext(t), b.Addr(), 1, []byte(body))
			assert.NoError(t, err)
			assert.Equal(t, body, string(reply))
		})
	}
	wg.Wait()
	require.Len(t, b.Conns(), 1, "one persistent connection")
}

func TestCallToOwnAddressNeedsNoSocket(t *testing.T) {
	a, _ := startPair(t)
	a.Gate(KindCall, errors.New("shut"))
	mustCall(t, a, a.Addr(), "in process")
	require.Empty(t, a.Conns())
	ctx, cancel := context.WithCancel(t.Context())
	a.Serve(func(context.Context, byte, []byte) []byte {
		cancel()
		return []byte("too late")
	})
	_, err := a.Call(ctx, a.Addr(), 1, nil)
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, ErrNotSent)
	_, err = a.Call(ctx, a.Addr(), 1, nil)
	require.ErrorIs(t, err, ErrNotSent, "the context had ended before")
}

func TestBudgetTravels(t *testing.T) {
	a, b := startPair(t)
	budgets := make(chan time.Duration, 1)
	b.Serve(func(ctx context.Context, _ byte, _ []byte) []byte {
		left := time.Duration(-1)
		if deadline, ok := ctx.Deadline(); ok {
			left = time.Until(deadline)
		}
		budgets <- left
		return nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err := a.Call(ctx, b.Addr(), 1, nil)
	require.NoError(t, err)
	got := <-budgets
	require.LessOrEqual(t, got, 5*time.Second)
	require.Greater(t, got, time.Duration(0))
	_, err = a.Call(t.Context(), b.Addr(), 1, nil)
	require.NoError(t, err)
	require.Equal(t, time.Duration(-1), <-budgets, "no deadline stays none")
}

func TestCallReturnsByItsDeadline(t *testing.T) {
	a, b := startPair(t)
	mustCall(t, a, b.Addr(), "connected")
	ended := make(chan error, 1)
	b.Serve(func(ctx context.Context, _ byte, _ []byte) []byte {
		<-ctx.Done()
		ended <- ctx.Err()
		return nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := a.Call(ctx, b.Addr(), 1, nil)
	require.Less(t, time.Since(start), time.Second)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NotErrorIs(t, err, ErrNotSent)
	require.ErrorIs(t, <-ended, context.DeadlineExceeded, "the budget ends it over there too")
	b.Serve(echo)
	mustCall(t, a, b.Addr(), "the connection goes on")
}

func TestCancelTravels(t *testing.T) {
	a, b := startPair(t)
	entered, ended := make(chan struct{}), make(chan error, 1)
	b.Serve(func(ctx context.Context, _ byte, _ []byte) []byte {
		close(entered)
		<-ctx.Done()
		ended <- ctx.Err()
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-entered
		cancel()
	}()
	_, err := a.Call(ctx, b.Addr(), 1, nil)
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, ErrNotSent)
	require.ErrorIs(t, <-ended, context.Canceled)
	require.Len(t, b.Conns(), 1)
	b.Serve(echo)
	mustCall(t, a, b.Addr(), "the connection goes on")
}

func TestNobodyListens(t *testing.T) {
	a, _ := startPair(t)
	gone := reservePort(t)
	start := time.Now()
	_, err := a.Call(testContext(t), gone, 1, nil)
	require.ErrorIs(t, err, ErrNotSent)
	require.Less(t, time.Since(start), time.Second, "a refused dial is reported at once")

	// While the pause after failed dials lasts, a call waits, not beyond its
	// context.
	for range 4 {
		_, _ = a.Call(testContext(t), gone, 1, nil)
	}
	c := a.calls.callee(gone)
	c.mu.Lock()
	require.LessOrEqual(t, c.backoff, mostBackoff)
	c.backoff = time.Hour
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = a.Call(ctx, gone, 1, nil)
	require.ErrorIs(t, err, ErrNotSent)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// TestFrozenPeerAtDial: the kernel accepts and the process says nothing.
func TestFrozenPeerAtDial(t *testing.T) {
	a, _ := startPair(t)
	frozen, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer frozen.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = a.Call(ctx, frozen.Addr().String(), 1, nil)
	require.ErrorIs(t, err, ErrNotSent, "a request is sent only to a live node")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	_, err = a.Call(testContext(t), frozen.Addr().String(), 1, nil)
	require.ErrorIs(t, err, ErrNotSent, "the dial itself has a bound")
}

// TestFrozenPeerAfterDial: a peer stops reading on an open connection.
func TestFrozenPeerAfterDial(t *testing.T) {
	a, _ := startPair(t)
	peer := startFakePeer(t, a)
	body := make([]byte, 1<<20)
	sent := 0
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		start := time.Now()
		_, err := a.Call(ctx, peer.addr, 1, body)
		cancel()
		require.Error(t, err)
		require.Less(t, time.Since(start), time.Second, "nobody blocks on its writes")
		if errors.Is(err, errBacklog) {
			require.ErrorIs(t, err, ErrNotSent)
			break
		}
		if sent++; sent > 200 {
			t.Fatal("the backlog has no bound")
		}
	}
}

// fakePeer is the accepting side of a call connection, by hand.
// answer replies to one request with raw bytes and returns the request.
// TestUnaskedRepliesAreIgnored: replies to nobody, and two for one request.
// TestBadRequests: a caller that sends nonsense loses its connection, the
// others lose nothing.
func TestRequestAboveTheLimit(t *testing.T) {
	a, b := startPair(t)
	for _, addr := range []string{a.Addr(), b.Addr()} {
		_, err := a.Call(testContext(t), addr, 1, make([]byte, maxRequest+1))
		require.ErrorIs(t, err, ErrNotSent)
		require.ErrorContains(t, err, fmt.Sprint("limit of ", maxRequest))
	}
}

func TestReplyAboveTheLimit(t *testing.T) {
	a, b := startPair(t)
	b.Serve(func(context.Context, byte, []byte) []byte { return make([]byte, maxReply+1) })
	_, err := a.Call(testContext(t), b.Addr(), 1, nil)
	require.ErrorContains(t, err, fmt.Sprint("limit of ", maxReply))
	require.NotErrorIs(t, err, ErrNotSent, "it was executed")
}

func TestLargeBodies(t *testing.T) {
	a, b := startPair(t)
	body := make([]byte, maxRequest)
	for i := range body {
		body[i] = byte(i * 7)
	}
	large := bytes.Repeat(body, maxReply/maxRequest)
	b.Serve(func(_ context.Context, _ byte, got []byte) []byte {
		if !bytes.Equal(body, got) {
			return nil
		}
		return large
	})
	reply, err := a.Call(testContext(t), b.Addr(), 1, body)
	require.NoError(t, err)
	require.True(t, bytes.Equal(large, reply))
	b.Serve(echo)
	reply, err = a.Call(testContext(t), b.Addr(), 1, nil)
	require.NoError(t, err)
	require.Equal(t, []byte{1}, reply)
}

func TestCallsBeforeServe(t *testing.T) {
	configs := testOptions(t, 2)
	a, b := startNetwork(t, configs[0]), startNetwork(t, configs[1])
	for _, addr := range []string{a.Addr(), b.Addr()} {
		_, err := a.Call(testContext(t), addr, 1, nil)
		require.ErrorIs(t, err, ErrNotSent)
		require.ErrorContains(t, err, "starting")
	}
}

func TestOverload(t *testing.T) {
	a, b := startPair(t)
	release := make(chan struct{})
	var inside atomic.Int32
	full := make(chan struct{})
	b.Serve(func(context.Context, byte, []byte) []byte {
		if inside.Add(1) == maxAnswering {
			close(full)
		}
		<-release
		return nil
	})
	var wg sync.WaitGroup
	for range maxAnswering {
		wg.Go(func() {
			_, err := a.Call(testContext(t), b.Addr(), 1, nil)
			assert.NoError(t, err)
		})
	}
	<-full
	_, err := a.Call(testContext(t), b.Addr(), 1, nil)
	require.ErrorIs(t, err, ErrNotSent)
	require.ErrorContains(t, err, "too many")
	close(release)
	wg.Wait()
	mustCallAny(t, a, b.Addr())
}

func mustCallAny(t *testing.T, n *Network, addr string) {
	t.Helper()
	_, err := n.Call(testContext(t), addr, 1, nil)
	require.NoError(t, err)
}

// TestBrokenConnection: a request that was queued and never written was not sent, the
// rest is unclear; the next call has a new connection.
func TestBrokenConnection(t *testing.T) {
	a, b := startPair(t)
	mustCall(t, a, b.Addr(), "x")
	conn, err := a.calls.callee(b.Addr()).connection(testContext(t))
	require.NoError(t, err)

	c := newCallConn(b.Addr(), conn.conn)
	calls := []*pendingCall{{result: make(chan callResult, 1)}, {result: make(chan callResult, 1)}}
	for _, p := range calls {
		_, err := c.send(t.Context(), p, 1, nil)
		require.NoError(t, err)
	}
	c.w.taken = 1 // the writer took the first one
	broken := errors.New("broken by the test")
	c.fail(broken)
	first, second := (<-calls[0].result).err, (<-calls[1].result).err
	require.ErrorIs(t, first, broken)
	require.NotErrorIs(t, first, ErrNotSent)
	require.ErrorIs(t, second, broken)
	require.ErrorIs(t, second, ErrNotSent)
	_, err = c.call(t.Context(), 1, nil)
	require.ErrorIs(t, err, errBroken)

	require.Eventually(t, func() bool {
		_, err := a.Call(testContext(t), b.Addr(), 1, nil)
		return err == nil
	}, 10*time.Second, time.Millisecond)
}
