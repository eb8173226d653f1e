package raftstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

// errNotSent marks the errors of calls of which certainly nothing was sent or,
// if it was, was certainly refused unexecuted: the call had no effect. Every
// other error of a call is unclear.
var errNotSent = errors.New("not sent")

// callHandler answers one call. The context ends with the caller's budget,
// with its interest or with the connection. The body is the handler's to
// keep; the reply is the caller's. It may run many times at once.
type callHandler func(ctx context.Context, op byte, body []byte) []byte

type callerKey struct{}

// withCaller notes which server makes a call. Its connection says so, not the
// request: what a request brings along counts as that server's word (P2).
func withCaller(ctx context.Context, id raft.ServerID) context.Context {
	return context.WithValue(ctx, callerKey{}, id)
}

// callerOf returns the server that makes a call, or "".
func callerOf(ctx context.Context) raft.ServerID {
	id, _ := ctx.Value(callerKey{}).(raft.ServerID)
	return id
}

// call makes one request to the node at addr and returns its reply; body is
// the callee's from then on, the reply the caller's. It returns by ctx's
// deadline, which travels with the request. Calls to this node's own address
// touch no socket.
func (n *network) call(ctx context.Context, addr string, op byte, body []byte) ([]byte, error) {
	if tap := n.tap.Load(); tap != nil {
		return n.tapped(ctx, *tap, addr, op, body)
	}
	return n.roundTrip(ctx, addr, op, body)
}

func (n *network) roundTrip(ctx context.Context, addr string, op byte, body []byte) ([]byte, error) {
	if len(body) > maxRequest {
		return nil, notSent(addr, fmt.Errorf("a request of %d bytes is above the limit of %d", len(body), maxRequest))
	}
	if addr != n.self {
		return n.calls.call(ctx, addr, op, body)
	}
	h := n.handler.Load()
	if h == nil {
		return nil, notSent(addr, errNotServing)
	}
	if err := ctx.Err(); err != nil {
		return nil, notSent(addr, err)
	}
	reply := (*h)(withCaller(ctx, n.serverID()), op, body)
	// As on a connection: an answer that comes too late is none.
	if err := ctx.Err(); err != nil {
		return nil, unclear(addr, err)
	}
	return reply, nil
}

// errNotServing refuses calls that come before the node can answer any, and
// its own after it was closed.
var errNotServing = errors.New("the node answers no calls: it is starting or closing")

func notSent(addr string, err error) error {
	return fmt.Errorf("call to %s: %w: %w", addr, errNotSent, err)
}

func unclear(addr string, err error) error {
	return fmt.Errorf("call to %s: sent, and no answer came: %w", addr, err)
}

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

// tapFunc is a test's ear and hand on the calls a node makes, in-process ones
// too. It runs in the caller's goroutine and may block until ctx ends, which
// holds the message back; false drops it, and the caller hears nothing more.
type tapFunc func(ctx context.Context, e tapEvent) bool

// setTap installs f; nil removes it.
func (n *network) setTap(f tapFunc) {
	if f == nil {
		n.tap.Store(nil)
		return
	}
	n.tap.Store(&f)
}

// tapped is call under a tap. To its caller a dropped message looks like a
// lost one: silence until the deadline, then an unclear error.
func (n *network) tapped(ctx context.Context, tap tapFunc, addr string, op byte, body []byte) ([]byte, error) {
	e := tapEvent{addr: addr, op: op, body: body}
	if !tap(ctx, e) {
		<-ctx.Done()
	}
	if err := ctx.Err(); err != nil {
		return nil, unclear(addr, err)
	}
	reply, err := n.roundTrip(ctx, addr, op, body)
	if err != nil {
		return nil, err
	}
	e.answered, e.reply = true, reply
	if !tap(ctx, e) {
		<-ctx.Done()
	}
	if err := ctx.Err(); err != nil {
		return nil, unclear(addr, err)
	}
	return reply, nil
}
