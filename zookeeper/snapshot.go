package zookeeper

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/go-zookeeper/zk"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
	"github.com/holdfast-dcs/holdfast/internal/remote"
)

// Snapshot implements [dcs.Backend].
func (b *Backend) Snapshot(ctx context.Context, prefix string) (dcs.Snapshot, error) {
	return b.floor.Snapshot(backendName, prefix, func() (dcs.Snapshot, string, error) { return b.snapshot(ctx, prefix) })
}

// snapshot reads the tree at one server, after the quorum was asked there: in
// as many requests as there are nodes, which have deadlines of their own.
func (b *Backend) snapshot(ctx context.Context, prefix string) (dcs.Snapshot, string, error) {
	for {
		r, err := b.newReader(ctx, request{"Snapshot", []string{prefix}})
		if err != nil {
			return dcs.Snapshot{}, r.addr, err
		}
		v, rev, err := r.stable(ctx, b.path(prefix))
		if err == nil {
			return dcs.Snapshot{Revision: rev, Entries: b.entries(v)}, r.addr, nil
		}
		if ctx.Err() != nil || remote.Judge(err).Final {
			return dcs.Snapshot{}, r.addr, err
		}
	}
}

// reader reads a tree at one server, on the connection on which the quorum was
// asked before.
type reader struct {
	b       *Backend
	request request
	addr    string
	on      *wire
}

// newReader asks the quorum through one server, whichever answers first: what
// is read there after it is not older.
func (b *Backend) newReader(ctx context.Context, r request) (*reader, error) {
	a, err := do(ctx, b, endpoint.Read, func(ctx context.Context, addr string) (*wire, error) {
		_, w, err := through(ctx, b, addr, r, askQuorum)
		return w, err
	})
	return &reader{b: b, request: r, addr: a.Endpoint, on: a.Value}, err
}

// atOnce is how many nodes are asked for together.
const atOnce = 256

// reading makes requests on the reader's connection.
func reading[T any](ctx context.Context, r *reader, f func(c *zk.Conn) (T, error)) (T, error) {
	one, cancel := context.WithTimeout(ctx, r.b.pool.AttemptTimeout(endpoint.Read, r.b.c.Timing.RetryTimeout, 0))
	defer cancel()
	v, w, err := through(one, r.b, r.addr, r.request, f)
	if err == nil && w != r.on {
		err = &remote.Failure{Endpoint: r.addr, Err: errBroken, Refused: true}
	}
	return v, err
}

func (r *reader) nodes(ctx context.Context, paths []string) ([]node, error) {
	var out []node
	for part := range slices.Chunk(paths, atOnce) {
		nodes, err := reading(ctx, r, func(c *zk.Conn) ([]node, error) { return readAll(c, part) })
		if err != nil {
			return nil, err
		}
		out = append(out, nodes...)
	}
	return out, nil
}

func (r *reader) lists(ctx context.Context, paths []string) ([]*listing, error) {
	if len(paths) == 0 {
		return nil, nil
	}
	return reading(ctx, r, func(c *zk.Conn) ([]*listing, error) { return r.b.list(c, paths) })
}

// both reads nodes and lists others, in one go where they are few: the less time
// it takes, the less is changed meanwhile.
func (r *reader) both(ctx context.Context, paths, branches []string) ([]node, []*listing, error) {
	first := paths[:min(len(paths), atOnce)]
	type answer struct {
		nodes []node
		lists []*listing
	}
	got, err := reading(ctx, r, func(c *zk.Conn) (a answer, err error) {
		errs := make([]error, 2)
		together(2, func(i int) {
			if i == 0 {
				a.nodes, errs[0] = readAll(c, first)
			} else {
				a.lists, errs[1] = r.b.list(c, branches)
			}
		})
		return a, errors.Join(errs...)
	})
	if err != nil {
		return nil, nil, err
	}
	rest, err := r.nodes(ctx, paths[len(first):])
	return append(got.nodes, rest...), got.lists, err
}

func (r *reader) gather(ctx context.Context, path string) (view, error) {
	return gather(path, func(paths []string) ([]node, error) { return r.nodes(ctx, paths) },
		func(paths []string) ([]*listing, error) { return r.lists(ctx, paths) })
}

// stable reads everything at and below top twice, until two readings tell how it was between
// them.
func (r *reader) stable(ctx context.Context, top string) (view, dcs.Revision, error) {
	known, err := r.gather(ctx, top)
	for err == nil {
		at := r.on.latest()
		var now view
		if now, err = r.again(ctx, top, known); err != nil {
			break
		}
		if v, ok := known.moment(now, top, at); ok {
			return v, at, nil
		}
		known = now
	}
	if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		r.b.pool.Blame(r.addr, "no answer to a part of a Snapshot")
	}
	return nil, 0, err
}

// again reads the nodes of v once more, and those that have come below them.
func (r *reader) again(ctx context.Context, top string, v view) (view, error) {
	paths := []string{top}
	var branches []string
	for path, n := range v {
		if path != top {
			paths = append(paths, path)
		}
		if n.below != nil || n.stat.NumChildren > 0 {
			branches = append(branches, path)
		}
	}
	nodes, lists, err := r.both(ctx, paths, branches)
	if err != nil {
		return nil, err
	}
	now := view{}
	for i, n := range nodes {
		if n.there {
			now[paths[i]] = n
		}
	}
	var fresh []string
	for i, l := range lists {
		now.listed(branches[i], l)
		for _, path := range l.paths {
			if _, ok := v[path]; !ok {
				fresh = append(fresh, path)
			}
		}
	}
	if nodes, err = r.nodes(ctx, fresh); err != nil {
		return nil, err
	}
	for i, n := range nodes {
		switch {
		case !n.there:
		case n.stat.NumChildren == 0:
			now[fresh[i]] = n
		default:
			more, err := r.gather(ctx, fresh[i])
			if err != nil {
				return nil, err
			}
			maps.Copy(now, more)
		}
	}
	return now, nil
}

// moment is the tree as it was at the revision z, when a reading of it had
// ended; a later one began after that. What the later one found unchanged since
// z is of that moment, and so is what the earlier one found and was changed once
// since. A node that was made since was not there. False says that it cannot be
// told: something was taken away, or changed twice.
func (v view) moment(later view, top string, z dcs.Revision) (view, bool) {
	out := make(view, len(v))
	if n, ok := later[top]; ok && !v[top].there && revision(n.stat.Czxid) <= z {
		return nil, false
	}
	for path, n := range v {
		o, ok := later[path]
		if !ok || n.stat.Czxid != o.stat.Czxid {
			return nil, false
		}
		switch {
		case revision(o.stat.Mzxid) <= z:
			out[path] = o
		case o.stat.Version == n.stat.Version+1:
			out[path] = n
		default:
			return nil, false
		}
		leaf := n.below == nil && n.stat.NumChildren == 0 && n.stat.Pzxid == o.stat.Pzxid
		if !leaf && (n.below == nil || !v.arrived(n.below, o.below, later, z, out)) {
			return nil, false
		}
	}
	return out, true
}

// arrived puts into out what came directly below a node since it was listed
// and was there at z. It is false where something went, too: every coming and
// going counts in the node's cversion.
func (v view) arrived(earlier, now *listing, later view, z dcs.Revision, out view) bool {
	if now == nil || int(now.stat.Cversion-earlier.stat.Cversion) != len(now.paths)-len(earlier.paths) {
		return false
	}
	for _, path := range earlier.paths {
		if _, ok := v[path]; !ok {
			return false
		}
	}
	had := map[string]bool{}
	for _, path := range earlier.paths {
		had[path] = true
	}
	for _, path := range now.paths {
		if had[path] {
			continue
		}
		n, ok := later[path]
		switch {
		case !ok || n.stat.Czxid > now.stat.Pzxid:
			return false // it is not the one that was listed
		case revision(n.stat.Czxid) > z:
		case n.stat.NumChildren > 0 || revision(n.stat.Mzxid) > z:
			return false
		default:
			out[path] = n
		}
	}
	return true
}
