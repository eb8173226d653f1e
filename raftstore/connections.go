package raftstore

import (
	"context"
	"errors"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/keepalive"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// caller makes calls to nodes, like a [transport.Network].
type caller interface {
	// Call makes one request to the node at addr and returns its reply.
	Call(ctx context.Context, addr string, op byte, body []byte) ([]byte, error)
	// IsOwn reports whether addr is that of this node, for which a request needs no
	// call.
	IsOwn(addr string) bool
}

// connections returns the options of the connections between nodes.
func (c Config) connections() transport.Options {
	keep, _ := keepalive.Derive(c.Timing.TTL, c.Timing.LoopWait)
	o := transport.Options{
		ID: c.ID, Cluster: transport.NewClusterID(c.Root),
		Listen: c.Listen, Advertise: c.Advertise, Peers: map[string]string{},
		TLS: (*transport.TLS)(c.TLS), PlaintextBeyondLoopback: c.PlaintextBeyondLoopback,
		Keepalive: keep, HeartbeatTimeout: c.HeartbeatTimeout, ElectionTimeout: c.ElectionTimeout,
		Logger: c.Logger,
	}
	for _, p := range c.Peers {
		o.Peers[p.ID] = p.Addr
	}
	return o
}

// connectionError returns the error of Open for a node that cannot listen.
func connectionError(err error) error {
	var unusable *transport.OptionsError
	if errors.As(err, &unusable) {
		return invalid("%w", err)
	}
	return openError(dcs.ErrUnavailable, "%w", err)
}
