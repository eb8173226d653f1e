package zookeeper

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/watchcache"
)

// source returns the source of the copy of the tree. The watch reads the tree.
func (b *Backend) source() watchcache.Source {
	return watchcache.Source{
		Backend: backendName, Budget: b.c.Timing.RetryTimeout, Life: b.life, Pool: b.pool,
		Snapshot: b.Snapshot, Raise: b.minRevision.Raise, NoDeletesSince: b.noDeletesSince, Stream: b.watch,
	}
}

// Wait implements [dcs.Backend].
func (b *Backend) Wait(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, error) {
	return b.copy.Wait(ctx, prefix, since)
}

// noDeletesSince compares since with the latest creation or deletion of a node
// at or below prefix. Each parent records that of its children. If there is no
// node at prefix now, the nodes above record it, together with changes outside
// prefix.
func (b *Backend) noDeletesSince(ctx context.Context, prefix string, since dcs.Revision, _ map[string]bool) bool {
	r, err := b.newReader(ctx, request{"Wait", []string{prefix}})
	if err != nil {
		return false
	}
	path := b.path(prefix)
	v, err := r.gather(ctx, path)
	if err == nil && len(v) == 0 {
		v, err = r.above(ctx, path)
	}
	if err != nil || len(v) == 0 {
		return false
	}
	for _, n := range v {
		if max(revision(n.stat.Czxid), revision(n.stat.Pzxid)) > since {
			return false
		}
	}
	return true
}

// above reads the nodes above path that belong to the store.
func (r *reader) above(ctx context.Context, path string) (view, error) {
	paths := slices.DeleteFunc(parents(path), func(p string) bool { return len(p) < len(r.b.root) })
	nodes, err := r.nodes(ctx, paths)
	out := view{}
	for i, n := range nodes {
		if n.there {
			out[paths[i]] = n
		}
	}
	return out, err
}

// watch keeps the copy of the tree equal to the tree at one server.
type watch struct {
	*mirror // made by Follow
	b       *Backend
	w       *watchcache.Watch
	turn    chan struct{} // held while the mirror reads
	loaded  bool          // the copy equals the mirror; under turn
}

// watch returns a watch that is not open yet.
func (b *Backend) watch(w *watchcache.Watch) watchcache.Stream {
	return &watch{b: b, w: w, turn: make(chan struct{}, 1)}
}

// Follow reads the tree, which is then not older than any earlier answer. After
// that it reads each node that an event names.
func (v *watch) Follow(ctx context.Context) error {
	m, err := v.b.newMirror(v.w.Endpoint(), v.b.root, request{op: "Wait"}, nil)
	if err != nil {
		return err
	}
	v.mirror, m.heard = m, v.w.Heard
	defer v.s.goodbye()
	newer := v.b.newer.next()
	again, stop := v.b.reread()
	defer stop()
	for err = v.Probe(ctx); ; {
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-v.s.done:
			return &backend.Failure{Endpoint: v.addr, Err: v.s.ended(), Blame: true}
		case <-newer:
			err = v.withNewer()
		case <-again:
			if v.s.signAgain(ctx, v.s.gave.Load()) {
				err = v.withNewer()
			}
		case <-v.news:
			err = v.update(ctx, v.op, nil)
		}
	}
}

// Probe makes a request to the quorum through the server, which updates the
// copy.
func (v *watch) Probe(ctx context.Context) error {
	return v.update(ctx, request{op: "Probe"}, barrier)
}

// errCredentials ends a watch whose session has got newer credentials. ZooKeeper keeps
// the events of nodes from a session that may not read them, so that some may be missing.
var errCredentials = errors.New("the watch begins again with the newer credentials")

func (v *watch) withNewer() error {
	return &backend.Failure{Endpoint: v.addr, Err: errCredentials, Refused: true, Local: true}
}

// reread returns a channel that fires when the files of the credentials are to be read
// again, because a client that only waits makes no call that is denied. stop ends that.
func (b *Backend) reread() (again <-chan time.Time, stop func()) {
	if !b.c.auth.mayChange() {
		return nil, func() {}
	}
	t := time.NewTicker(b.c.Timing.RetryTimeout)
	return t.C, t.Stop
}

// update makes the pending reads, and updates the copy to their result.
func (v *watch) update(ctx context.Context, op request, first func(c *zk.Conn) error) error {
	select {
	case v.turn <- struct{}{}:
		defer func() { <-v.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	rev, err := v.read(ctx, op, first)
	if err != nil {
		return err
	}
	if v.loaded {
		wrote, deleted := v.taken(v.b.copy.Tree.Get)
		return v.w.Apply(rev, wrote, deleted)
	}
	v.loaded = true
	clear(v.changed)
	return v.w.Take(rev, v.b.entries(v.nodes))
}
