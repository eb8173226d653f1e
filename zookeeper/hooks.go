package zookeeper

import (
	"context"
	"net"

	"github.com/go-zookeeper/zk"
)

// hooks are functions that a Backend calls at its boundary. Tests set them. A nil
// one has no effect.
type hooks struct {
	// intercept sends each request of the Backend.
	intercept interceptor
	// dialled is called with each connection that was made.
	dialled func(net.Conn)
}

// interceptor sends a request by calling send. It decides when and how often. The
// connection is that of s, unless s is over. If s is nil, the request needs no
// connection of the library, and that argument is nil.
type interceptor func(ctx context.Context, r request, s *session, send func(c *zk.Conn) error) error

// request is the operation that a call belongs to, and its keys.
type request struct {
	op   string
	keys []string
}

// withDefaults returns h with every function set.
func (h hooks) withDefaults() hooks {
	if h.intercept == nil {
		h.intercept = sendOnce
	}
	if h.dialled == nil {
		h.dialled = func(net.Conn) {}
	}
	return h
}

// sendOnce sends a request once, in its own session.
func sendOnce(_ context.Context, _ request, s *session, send func(c *zk.Conn) error) error {
	if s == nil {
		return send(nil)
	}
	return send(s.conn)
}
