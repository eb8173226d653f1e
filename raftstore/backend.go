package raftstore

import (
	"context"
	"sync"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// Backend is one node of the cluster, as a store: it serves every call,
// whichever node leads. Make it with New; close it with Close.
type Backend struct {
	frontend
	node   *node
	config Config

	waits   waits
	streams waits // of clients
	closing sync.Once
	closed  error
}

var (
	_ dcs.Backend = (*Backend)(nil)
	_ dcs.Settler = (*Backend)(nil)
)

// New starts the node that c describes and returns it as a store. It returns
// once the node runs, and does not wait for the cluster to have a leader: the
// first call does, within its budget. A fault in the settings, a port in use,
// a data directory that is not this node's or can not be read: each is an
// error at once, and leaves nothing open.
func New(ctx context.Context, c Config) (*Backend, error) {
	if err := ctx.Err(); err != nil {
		return nil, openError(dcs.ErrUnavailable, "%w", err)
	}
	return newBackend(c, defaultDeps())
}

func newBackend(c Config, w nodeDeps) (*Backend, error) {
	n, err := startNode(c, w)
	if err != nil {
		return nil, err
	}
	b := newBackendOn(n, n.life)
	n.net.ServeClients(transport.ClientHandler{Call: n.answerClient, Stream: b.streamToClient})
	return b, nil
}

// newBackendOn returns a store on n that ends with life.
func newBackendOn(n *node, life context.Context) *Backend {
	b := &Backend{node: n, config: n.config}
	b.init(nodeCaller{n}, life, n.config.Timing, n.config.MinTTL)
	b.settlePause = n.config.HeartbeatTimeout
	b.waits.init(b)
	b.streams.init(b)
	return b
}

// Status returns what this node knows of itself and of the cluster. It asks
// nobody and never blocks.
func (b *Backend) Status() Status { return b.node.status() }

// Close ends the node. It is idempotent and returns within a few seconds,
// whatever the disk and the network do; calls under way return ErrClosed. A
// node that leads hands the lead over first, which takes the others a few
// milliseconds instead of an election; after a second it no longer waits.
func (b *Backend) Close() error {
	b.closing.Do(func() {
		b.closed = b.node.close()
		b.settles.close()
		b.running.Wait()
	})
	return b.closed
}
