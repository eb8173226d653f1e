package raftstore

import (
	"context"
	"sync"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// A Backend is one node of the cluster. It serves every call, whichever node leads.
// Callers must make it with New and end it with Close.
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

// New starts the node that c describes. It returns once the node runs, and does not
// wait for the cluster to have a leader. The first call waits for one, within its
// budget. New fails at once, and leaves nothing open, if a setting is wrong, the port
// is in use, or the data directory belongs to another node or cannot be read.
func New(ctx context.Context, c Config) (*Backend, error) {
	if err := ctx.Err(); err != nil {
		return nil, openError(dcs.ErrUnavailable, "%w", err)
	}
	return newBackend(c, defaultHooks())
}

func newBackend(c Config, h hooks) (*Backend, error) {
	n, err := startNode(c, h)
	if err != nil {
		return nil, err
	}
	b := newBackendOn(n, n.life)
	n.net.ServeClients(transport.ClientHandler{Call: n.answerClient, Stream: b.streamToClient})
	return b, nil
}

// newBackendOn returns a Backend on n that ends with life.
func newBackendOn(n *node, life context.Context) *Backend {
	b := &Backend{node: n, config: n.config}
	b.init(nodeCaller{n}, life, n.config.Timing, n.config.MinTTL)
	b.settlePause = n.config.HeartbeatTimeout
	b.waits.init(b)
	b.streams.init(b)
	return b
}

// Status returns this node's view of itself and of the cluster. It sends no request
// and never blocks.
func (b *Backend) Status() Status { return b.node.status() }

// Close ends the node. It is idempotent and returns within a few seconds, even if
// the disk or the network hangs. Calls in progress return ErrClosed. A leader first
// transfers the leadership, which takes the others a few milliseconds instead of an
// election. It waits for that for at most a second.
func (b *Backend) Close() error {
	b.closing.Do(func() {
		b.closed = b.node.close()
		b.settles.close()
		b.waits.close()
		b.streams.close()
		b.running.Wait()
	})
	return b.closed
}
