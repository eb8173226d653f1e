package consul

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backoff"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
	"github.com/holdfast-dcs/holdfast/internal/watchcache"
)

// source returns the functions from which the watch cache is built.
func (b *Backend) source() watchcache.Source {
	return watchcache.Source{
		Backend: backendName, Budget: b.c.Timing.RetryTimeout, Life: b.hooks.named(b.life, "Wait"), Pool: b.pool,
		Read: func(ctx context.Context) (dcs.Snapshot, error) {
			s, _, err := b.snapshot(ctx, "")
			return watchcache.Visible("", s), err
		},
		Snapshot: b.Snapshot, Raise: b.minRevision.Raise, NoDeletesSince: b.noDeletesSince, Stream: b.view, Delay: longestPoll,
	}
}

// Wait implements [dcs.Backend].
func (b *Backend) Wait(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, error) {
	return b.copy.Wait(ctx, prefix, since)
}

// noDeletesSince reports whether no key under prefix was deleted after since. It compares
// the index below prefix with since. Consul increases that index for deletions, too, but
// forgets them after some 15 minutes and answers with the index of the whole store from
// then on, which counts as changed.
func (b *Backend) noDeletesSince(ctx context.Context, prefix string, since dcs.Revision, _ map[string]bool) bool {
	a, err := do(ctx, b, endpoint.List, func(ctx context.Context, c *conn) (listed, error) { return b.list(ctx, c, prefix) })
	return err == nil && a.Value.index <= since
}

// blocking is the time for which a blocking query waits for a change. Probes detect a
// server that is silent during that time.
const blocking = time.Minute

// A view is the watch at one endpoint. It makes one blocking query after the other.
type view struct {
	b     *Backend
	w     *watchcache.Watch
	c     *conn        // set by Follow
	index dcs.Revision // the index from which the next query waits
}

// polled is a tree with its revision in the watch cache.
type polled struct {
	listed
	rev dcs.Revision
}

// view returns a watch that is not open yet.
func (b *Backend) view(w *watchcache.Watch) watchcache.Stream { return &view{b: b, w: w} }

// Follow reads the tree each time it has changed, until a read fails.
func (v *view) Follow(ctx context.Context) error {
	c, err := v.b.admitted(ctx, v.w.Endpoint())
	if err != nil {
		return err
	}
	v.c = c
	read := v.current
	for {
		p, err := read(ctx)
		if err != nil {
			return err
		}
		if err := v.w.Take(p.rev, visible(p.listed)); err != nil {
			return err
		}
		v.index, read = p.index, v.query
		backoff.Sleep(ctx, v.b.polls.pause(p.bytes()))
	}
}

// Probe reads the index of the tree from the quorum.
func (v *view) Probe(ctx context.Context) error {
	index, err := v.b.top(ctx, v.c)
	if err == nil {
		v.b.copy.Saw(index)
	}
	return err
}

// current reads the tree from the quorum. If Consul has forgotten deletions, the index
// below the root may be older than the tree. A tree that differs from the cache then gets
// the index of the whole store, which every deletion has increased.
func (v *view) current(ctx context.Context) (polled, error) {
	l, err := v.b.list(ctx, v.c, "")
	if err != nil || l.index > v.b.copy.Tree.Revision() {
		return polled{l, l.index}, err
	}
	if wrote, deleted := v.b.copy.Changes(visible(l)); len(wrote)+len(deleted) == 0 {
		return polled{l, l.index}, nil
	}
	rev, err := v.b.storeIndex(ctx, v.c)
	if err == nil {
		l, err = v.b.list(ctx, v.c, "") // this tree is not older than rev
	}
	return polled{l, max(rev, l.index)}, err
}

// query makes one blocking query. The leader answers it without verifying its
// leadership. The answer of a leader that has been replaced is correct but old, and
// probes detect that.
func (v *view) query(ctx context.Context) (polled, error) {
	limit := blocking + blocking/16 + v.b.c.Timing.RetryTimeout // Consul adds up to a sixteenth
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	l, err := call(ctx, v.c, func(ctx context.Context, token string) (listed, error) {
		o := v.c.reading(ctx, token)
		o.RequireConsistent, o.WaitIndex, o.WaitTime = false, uint64(v.index), blocking
		pairs, meta, err := v.c.api.KV().List(v.b.root, o)
		if err != nil {
			return listed{}, err
		}
		return v.b.listing(pairs, meta)
	})
	if errors.Is(err, errConnections) { // current uses the connections of calls
		backoff.Sleep(ctx, longestPoll)
		return v.current(ctx)
	}
	return polled{l, l.index}, err
}

// visible returns the entries of a list of the whole tree without the bookkeeping.
func visible(l listed) []dcs.Entry {
	return watchcache.Visible("", dcs.Snapshot{Entries: slices.Clone(l.entries)}).Entries
}
