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

// source is what the copy of the tree is made from.
func (b *Backend) source() watchcache.Source {
	return watchcache.Source{
		Backend: backendName, Budget: b.c.Timing.RetryTimeout, Life: b.c.name(b.life, "Wait"), Pool: b.pool,
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

// noDeletesSince compares the index below prefix with since. Consul moves that index
// for a deletion, too, forgets deletions after some 15 minutes, and answers with the
// index of the whole store from then on. That counts as changed.
func (b *Backend) noDeletesSince(ctx context.Context, prefix string, since dcs.Revision, _ map[string]bool) bool {
	a, err := do(ctx, b, endpoint.Read, func(ctx context.Context, c *conn) (listed, error) { return b.list(ctx, c, prefix) })
	return err == nil && a.Value.index <= since
}

// blocking is how long a blocking query waits for a change. Probes find a server
// that is silent meanwhile.
const blocking = time.Minute

// view is one blocking query after the other at one endpoint.
type view struct {
	b     *Backend
	w     *watchcache.Watch
	c     *conn        // set by Follow
	index dcs.Revision // that the next query waits on
}

// polled is a tree with the revision that the copy takes it under.
type polled struct {
	listed
	rev dcs.Revision
}

// view returns a watch that is not open yet.
func (b *Backend) view(w *watchcache.Watch) watchcache.Stream { return &view{b: b, w: w} }

// Follow reads the tree again and again, each time when it has changed.
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

// Probe asks the quorum how far the tree is.
func (v *view) Probe(ctx context.Context) error {
	index, err := v.b.top(ctx, v.c)
	if err == nil {
		v.b.copy.Saw(index)
	}
	return err
}

// current reads the tree by the quorum's word. Consul forgets deletions, and the
// index below the root is then older than the tree: a tree that is not the
// copy's has the whole store's index, which every deletion has moved.
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
		l, err = v.b.list(ctx, v.c, "") // which is not older than rev
	}
	return polled{l, max(rev, l.index)}, err
}

// query is one blocking query. It is answered by the leader without asking the
// others each time: the view of one that has been replaced is not wrong but
// old, which probes find.
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
	if errors.Is(err, errConnections) { // which calls can share
		backoff.Sleep(ctx, longestPoll)
		return v.current(ctx)
	}
	return polled{l, l.index}, err
}

// visible are the entries of a list of the whole tree, bookkeeping left out.
func visible(l listed) []dcs.Entry {
	return watchcache.Visible("", dcs.Snapshot{Entries: slices.Clone(l.entries)}).Entries
}
