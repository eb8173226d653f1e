package transport

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

// ErrNotSent marks the errors of calls that certainly had no effect, because
// nothing was sent or because the callee refused the call unexecuted. After every
// other error a call may have been executed.
var ErrNotSent = errors.New("not sent")

// Handler answers one call. The context ends with the budget of the caller, when the
// caller cancels the call, or with the connection. The handler may keep body and
// must not keep the reply. It may run many times at once.
type Handler func(ctx context.Context, op byte, body []byte) []byte

type callerKey struct{}

// withCaller notes which server makes a call. Its connection says so, not the
// request: a vote within a request counts as that server's word (P2).
func withCaller(ctx context.Context, id raft.ServerID) context.Context {
	return context.WithValue(ctx, callerKey{}, id)
}

// Caller returns the server that makes a call, or "".
func Caller(ctx context.Context) raft.ServerID {
	id, _ := ctx.Value(callerKey{}).(raft.ServerID)
	return id
}

// Call makes one request to the node at addr and returns its reply. The callee owns
// body from then on, and the caller the reply. Call returns by the deadline of ctx,
// which travels with the request. A call to this node's own address uses no
// connection.
func (n *Network) Call(ctx context.Context, addr string, op byte, body []byte) ([]byte, error) {
	if len(body) > maxRequest {
		return nil, notSent(addr, fmt.Errorf("a request of %d bytes is above the limit of %d", len(body), maxRequest))
	}
	if !n.IsOwn(addr) {
		return n.calls.call(ctx, addr, op, body)
	}
	h := n.handler.Load()
	if h == nil {
		return nil, notSent(addr, errNotServing)
	}
	if err := ctx.Err(); err != nil {
		return nil, notSent(addr, err)
	}
	reply := (*h)(withCaller(ctx, n.ServerID()), op, body)
	// As on a connection: an answer that comes too late is none.
	if err := ctx.Err(); err != nil {
		return nil, unclear(addr, err)
	}
	return reply, nil
}

// IsOwn reports whether addr is this node's own address.
func (n *Network) IsOwn(addr string) bool { return addr == n.self }

// errNotServing refuses calls that come before the node can answer any, and
// its own after it was closed.
var errNotServing = errors.New("the node answers no calls: it is starting or closing")

// ErrLimit marks the refusal of a call or a connection because of a node's own
// limits. The node is well.
var ErrLimit = errors.New("the node is at a limit")

func notSent(addr string, err error) error {
	return fmt.Errorf("call to %s: %w: %w", addr, ErrNotSent, err)
}

func unclear(addr string, err error) error {
	return fmt.Errorf("call to %s: sent, and no answer came: %w", addr, err)
}
