package raftstore

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
)

// Backend is one node of the cluster, as a store: it serves every call,
// whichever node leads. Make it with New; close it with Close.
type Backend struct {
	node   *node
	config Config

	life context.Context //nolint:containedctx // the node's: it is the backend's end

	floor   atomic.Uint64 // the highest revision any call returned
	clients clientHolder
	settles settler
	waits   waits
	closing sync.Once
	closed  error
	running sync.WaitGroup
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
	return newBackend(c, defaultWiring())
}

func newBackend(c Config, w wiring) (*Backend, error) {
	n, err := startNode(c, w)
	if err != nil {
		return nil, err
	}
	b := &Backend{node: n, config: n.config, life: n.life}
	b.settles.b = b
	b.waits.init(b)
	return b, nil
}

// Name returns "raftstore".
func (b *Backend) Name() string { return backendName }

// Status returns what this node knows of itself and of the cluster. It asks
// nobody and never blocks.
func (b *Backend) Status() Status { return b.node.status() }

// Caps returns what the store can do. An Expiry is TTL x 1.01 + 50 ms, plus
// the time that one log entry takes.
func (b *Backend) Caps() dcs.Caps {
	return dcs.Caps{
		MinTTL: b.config.MinTTL, MaxTTL: state.MaxTTL,
		MaxValue: state.MaxValue, MaxTxnOps: state.MaxTxnOps, MaxTxnBytes: state.MaxTxnBytes,
		Rebind: true, SelfExpiry: true,
	}
}

// Get returns one entry, linearizable.
func (b *Backend) Get(ctx context.Context, key string) (dcs.Entry, error) {
	ctx, cancel := b.budget(ctx)
	defer cancel()
	o := b.node.ask(ctx, &request{op: opRead, prefix: key, single: true}, nothing)
	if o.err != nil {
		return dcs.Entry{}, b.unavailable(ctx, "Get", key, o)
	}
	b.raise(o.reply.revision)
	if len(o.reply.entries) == 0 {
		return dcs.Entry{}, b.fail("Get", key, dcs.ErrNotFound, o.endpoint, nil)
	}
	return o.reply.entries[0], nil
}

// Snapshot returns the key prefix itself and everything below it, atomic and
// linearizable.
func (b *Backend) Snapshot(ctx context.Context, prefix string) (dcs.Snapshot, error) {
	ctx, cancel := b.budget(ctx)
	defer cancel()
	s, _, o := b.fetch(ctx, prefix, 0)
	if o.err != nil {
		return dcs.Snapshot{}, b.unavailable(ctx, "Snapshot", prefix, o)
	}
	return s, nil
}

// fetch reads the tree from whoever leads, unless it has not moved past since.
func (b *Backend) fetch(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, bool, outcome) {
	o := b.node.ask(ctx, &request{op: opRead, prefix: prefix, since: since}, nothing)
	if o.err != nil || !o.reply.moved {
		return dcs.Snapshot{}, false, o
	}
	s := dcs.Snapshot{Revision: o.reply.revision, Entries: o.reply.entries}
	if o.reply.elsewise {
		// Too large to send: our own copy will do, once it is as new.
		if err := b.node.await(ctx, s.Revision); err != nil {
			o.err = err
			return dcs.Snapshot{}, false, o
		}
		s = b.node.state.Tree().Snapshot(prefix)
	}
	b.raise(s.Revision)
	return s, true, o
}

// raise notes that a call returned r.
func (b *Backend) raise(r dcs.Revision) {
	for {
		old := b.floor.Load()
		if uint64(r) <= old || b.floor.CompareAndSwap(old, uint64(r)) {
			return
		}
	}
}

// budget bounds a call by RetryTimeout and by its context. The end of the node
// ends its calls by itself.
func (b *Backend) budget(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, b.config.Timing.RetryTimeout)
}

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

func nothing() {}
