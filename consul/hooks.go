package consul

import (
	"context"
	"net"
)

// hooks are functions that a Backend calls at its boundary. Tests set them. A nil one has
// no effect.
type hooks struct {
	// transport wraps the transport that sends the requests to an agent.
	transport func(roundTripper) roundTripper
	// dialled is called with each connection that was made.
	dialled func(net.Conn)
	// named returns ctx with op, the name of the operation whose requests are sent with
	// it.
	named func(ctx context.Context, op string) context.Context
}

// withDefaults returns h with every function set.
func (h hooks) withDefaults() hooks {
	if h.transport == nil {
		h.transport = func(r roundTripper) roundTripper { return r }
	}
	if h.dialled == nil {
		h.dialled = func(net.Conn) {}
	}
	if h.named == nil {
		h.named = func(ctx context.Context, _ string) context.Context { return ctx }
	}
	return h
}
