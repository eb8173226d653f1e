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

// callEvent is one request or reply, when its caller sends or receives it.
type callEvent struct {
	addr string // the callee
	op   byte
	body []byte // the request; read-only
	// answered is true if reply is the reply to body. Otherwise the request is about to
	// be sent.
	answered bool
	reply    []byte
}

// callHook observes the calls of a node, including those to itself. It runs in the
// caller's goroutine and may block until ctx ends, which holds the message back. If it
// returns false, the message is dropped, and the caller gets no answer.
type callHook func(ctx context.Context, e callEvent) bool

// hookedCaller is the caller of a node with a callHook.
type hookedCaller struct {
	caller
	hook atomic.Pointer[callHook]
}

// testHooks returns the default hooks with calls that a test can observe.
func testHooks() hooks {
	h := defaultHooks()
	h.calls = func(c caller) caller { return &hookedCaller{caller: c} }
	return h
}

// memorySegment is small, because a file system in memory holds and copies whole
// segments, and so that logs begin new ones often.
const memorySegment = 8 << 10

// memoryHooks is a testHooks with a file system in memory.
func memoryHooks(files *disktest.FS) hooks {
	h := testHooks()
	h.files, h.segmentBytes = files, memorySegment
	return h
}

// setCallHook sets the callHook of a node with a testHooks. Nil removes it.
func (n *node) setCallHook(f callHook) { n.calls.(*hookedCaller).set(f) }

func (c *hookedCaller) set(f callHook) {
	if f == nil {
		c.hook.Store(nil)
		return
	}
	c.hook.Store(&f)
}

// IsOwn makes a node with a callHook call itself.
func (c *hookedCaller) IsOwn(addr string) bool {
	return c.hook.Load() == nil && c.caller.IsOwn(addr)
}

// Call treats a dropped message as lost. Its caller gets no answer until the deadline, and
// then an unclear error.
func (c *hookedCaller) Call(ctx context.Context, addr string, op byte, body []byte) ([]byte, error) {
	hook := c.hook.Load()
	if hook == nil {
		return c.caller.Call(ctx, addr, op, body)
	}
	e := callEvent{addr: addr, op: op, body: body}
	if !(*hook)(ctx, e) {
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
	if !(*hook)(ctx, e) {
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

func TestCallHookHoldsAndDrops(t *testing.T) {
	echo := &echoCaller{}
	c := &hookedCaller{caller: echo}
	require.True(t, c.IsOwn("b:1"))
	var requests, replies atomic.Int32
	hold := make(chan struct{})
	c.set(func(ctx context.Context, e callEvent) bool {
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
	require.False(t, c.IsOwn("b:1"), "the hook does not observe calls of the node to itself")
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
		c.set(func(_ context.Context, e callEvent) bool { return e.answered != dropReply })
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
