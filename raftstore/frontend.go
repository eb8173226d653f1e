package raftstore

import (
	"context"
	"sync"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/watchcache"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
)

// frontend turns the calls of a store into requests to the nodes, and numbers the
// commands among them (P15). [Backend] and [Client] embed it.
type frontend struct {
	nodes        nodes
	life         context.Context //nolint:containedctx // it is the store's end
	retryTimeout time.Duration
	minTTL       time.Duration
	settlePause  time.Duration // between two attempts to settle in the background

	minRevision watchcache.MinRevision // the highest revision any call returned
	clients     clientHolder
	settles     settler
	running     sync.WaitGroup
}

// nodes is the way in which a frontend reaches the nodes of the cluster.
type nodes interface {
	// ask sends a request to the leader, as often as needed, until there is an answer
	// or ctx ends.
	ask(ctx context.Context, r *request) outcome
	// treeSince and keysSince return entries that are too large for a reply, as they
	// were at that revision or later.
	treeSince(ctx context.Context, r dcs.Revision, prefix string) (dcs.Snapshot, error)
	keysSince(ctx context.Context, r dcs.Revision, keys []string) ([]dcs.Entry, error)
	// explain adds the reason why no node could serve a call to its error.
	explain(err error) error
}

func (b *frontend) init(n nodes, life context.Context, t dcs.Timing, minTTL time.Duration) {
	b.nodes, b.life, b.retryTimeout, b.minTTL = n, life, t.RetryTimeout, minTTL
	b.settles.b = b
}

// Name returns "raftstore".
func (b *frontend) Name() string { return backendName }

// Caps returns the limits and capabilities of the store. An Expiry is TTL x 1.01 +
// 50 ms, plus the time that one log entry takes.
func (b *frontend) Caps() dcs.Caps {
	return dcs.Caps{
		MinTTL: b.minTTL, MaxTTL: state.MaxTTL,
		MaxValue: state.MaxValue, MaxTxnOps: state.MaxTxnOps, MaxTxnBytes: state.MaxTxnBytes,
		Rebind: true, SelfExpiry: true,
	}
}

// Get returns one entry. It is linearizable.
func (b *frontend) Get(ctx context.Context, key string) (dcs.Entry, error) {
	ctx, cancel := b.budget(ctx)
	defer cancel()
	o := b.nodes.ask(ctx, &request{op: opRead, prefix: key, single: true})
	if o.err != nil {
		return dcs.Entry{}, b.unavailable(ctx, "Get", key, o)
	}
	b.minRevision.Raise(o.reply.revision)
	if len(o.reply.entries) == 0 {
		return dcs.Entry{}, b.fail("Get", key, dcs.ErrNotFound, o.endpoint, nil)
	}
	return o.reply.entries[0], nil
}

// Snapshot returns the entry of prefix itself and all entries below it. It is atomic
// and linearizable.
func (b *frontend) Snapshot(ctx context.Context, prefix string) (dcs.Snapshot, error) {
	ctx, cancel := b.budget(ctx)
	defer cancel()
	return b.minRevision.Read(func() (dcs.Snapshot, error) {
		s, _, o := b.fetch(ctx, prefix, 0)
		if o.err != nil {
			return s, b.unavailable(ctx, "Snapshot", prefix, o)
		}
		return s, nil
	})
}

// fetch reads the tree from the leader, unless it has not moved past since.
func (b *frontend) fetch(ctx context.Context, prefix string, since dcs.Revision) (s dcs.Snapshot, moved bool, o outcome) {
	o = b.nodes.ask(ctx, &request{op: opRead, prefix: prefix, since: since})
	if o.err != nil || !o.reply.moved {
		return dcs.Snapshot{}, false, o
	}
	s = dcs.Snapshot{Revision: o.reply.revision, Entries: o.reply.entries}
	if o.reply.tooLarge { // too large to send
		if s, o.err = b.nodes.treeSince(ctx, o.reply.revision, prefix); o.err != nil {
			return dcs.Snapshot{}, false, o
		}
	}
	return s, true, o
}

// budget bounds a call by RetryTimeout and by its context. The end of the store ends
// its calls separately.
func (b *frontend) budget(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, b.retryTimeout)
}
