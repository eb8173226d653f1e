package raftstore

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk/disktest"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// tapEvent is one request or reply as its caller sends or receives it.
type tapEvent struct {
	addr string // the callee
	op   byte
	body []byte // the request; read-only
	// answered says that reply is the reply to body; else the request is
	// about to be sent.
	answered bool
	reply    []byte
}

// tapFunc sees the calls of a node, those to itself too. It runs in the caller's
// goroutine and may block until ctx ends, which holds the message back. False
// drops it, and the caller hears nothing more.
type tapFunc func(ctx context.Context, e tapEvent) bool

// tappedCaller is the caller of a node that can be tapped.
type tappedCaller struct {
	caller
	tap atomic.Pointer[tapFunc]
}

// testDeps returns the default nodeDeps with calls that a test can observe.
func testDeps() nodeDeps {
	w := defaultDeps()
	w.calls = func(c caller) caller { return &tappedCaller{caller: c} }
	return w
}

// memorySegment is small, because a file system in memory holds and copies all
// of a segment, and so that logs begin new ones often.
const memorySegment = 8 << 10

// memoryDeps is a testDeps with a file system in memory.
func memoryDeps(files *disktest.FS) nodeDeps {
	w := testDeps()
	w.files, w.segmentBytes = files, memorySegment
	return w
}

// setTap lets f see the calls of a node with a testDeps; nil removes it.
func (n *node) setTap(f tapFunc) { n.calls.(*tappedCaller).set(f) }

func (c *tappedCaller) set(f tapFunc) {
	if f == nil {
		c.tap.Store(nil)
		return
	}
	c.tap.Store(&f)
}

// IsOwn makes a tapped node call itself.
func (c *tappedCaller) IsOwn(addr string) bool {
	return c.tap.Load() == nil && c.caller.IsOwn(addr)
}

// Call looks to its caller as if a dropped message were lost: silence until the
// deadline, then an unclear error.
func (c *tappedCaller) Call(ctx context.Context, addr string, op byte, body []byte) ([]byte, error) {
	tap := c.tap.Load()
	if tap == nil {
		return c.caller.Call(ctx, addr, op, body)
	}
	e := tapEvent{addr: addr, op: op, body: body}
	if !(*tap)(ctx, e) {
		<-ctx.Done()
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	reply, err := c.caller.Call(ctx, addr, op, body)
	if err != nil {
		return nil, err
	}
	e.answered, e.reply = true, reply
	if !(*tap)(ctx, e) {
		<-ctx.Done()
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return reply, nil
}

// echoCaller answers each call with its operation and its body.
type echoCaller struct{ calls atomic.Int32 }

func (c *echoCaller) IsOwn(string) bool { return true }

func (c *echoCaller) Call(_ context.Context, _ string, op byte, body []byte) ([]byte, error) {
	c.calls.Add(1)
	return append([]byte{op}, body...), nil
}

func TestTapHoldsAndDrops(t *testing.T) {
	echo := &echoCaller{}
	c := &tappedCaller{caller: echo}
	require.True(t, c.IsOwn("b:1"))
	var requests, replies atomic.Int32
	hold := make(chan struct{})
	c.set(func(ctx context.Context, e tapEvent) bool {
		assert.Equal(t, "b:1", e.addr)
		assert.Equal(t, byte(7), e.op)
		assert.Equal(t, "body", string(e.body))
		if !e.answered {
			requests.Add(1)
			return true
		}
		replies.Add(1)
		assert.Equal(t, "\x07body", string(e.reply))
		select {
		case <-hold:
		case <-ctx.Done():
		}
		return true
	})
	require.False(t, c.IsOwn("b:1"), "its calls to itself are not tapped")
	done := make(chan error, 1)
	go func() {
		_, err := c.Call(testCtx(t), "b:1", 7, []byte("body"))
		done <- err
	}()
	require.Eventually(t, func() bool { return replies.Load() == 1 }, 10*time.Second, time.Millisecond)
	select {
	case err := <-done:
		t.Fatal("the reply was not held back", err)
	default:
	}
	close(hold)
	require.NoError(t, <-done)
	require.Equal(t, int32(1), requests.Load())

	echo.calls.Store(0)
	for _, dropReply := range []bool{false, true} {
		c.set(func(_ context.Context, e tapEvent) bool { return e.answered != dropReply })
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		_, err := c.Call(ctx, "b:1", 7, nil)
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.False(t, errors.Is(err, transport.ErrNotSent), "to the caller a lost message is unclear")
	}
	require.Equal(t, int32(1), echo.calls.Load(), "the dropped request was never sent")
	c.set(nil)
	reply, err := c.Call(testCtx(t), "b:1", 7, nil)
	require.NoError(t, err)
	require.Equal(t, "\x07", string(reply))
}
