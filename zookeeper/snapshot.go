package zookeeper

import (
	"context"
	"errors"
	"maps"

	"github.com/go-zookeeper/zk"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
)

// Snapshot implements [dcs.Backend].
func (b *Backend) Snapshot(ctx context.Context, prefix string) (dcs.Snapshot, error) {
	return b.minRevision.Snapshot(backendName, prefix, func() (dcs.Snapshot, string, error) { return b.snapshot(ctx, prefix) })
}

// snapshot reads the tree at one server, after a request to the quorum through
// that server. It makes as many requests as the number of nodes requires, each
// with a deadline of its own.
func (b *Backend) snapshot(ctx context.Context, prefix string) (s dcs.Snapshot, at string, err error) {
	at, err = b.withReader(ctx, request{"Snapshot", []string{prefix}}, func(r *reader) error {
		v, rev, err := r.stable(ctx, b.path(prefix))
		if errors.Is(err, errUnsettled) {
			v, rev, err = r.mirrored(ctx, b.path(prefix))
		}
		if err == nil {
			s = dcs.Snapshot{Revision: rev, Entries: b.entries(v)}
		}
		return err
	})
	return s, at, err
}

// readMany reads the entries of many keys, as many in one request as the server
// supports, after a request to the quorum.
func (b *Backend) readMany(ctx context.Context, op string, keys []string) (entries []dcs.Entry, at string, err error) {
	at, err = b.withReader(ctx, request{op, keys}, func(r *reader) error {
		nodes, err := r.nodes(ctx, b.paths(keys))
		entries = entriesOf(keys, nodes)
		return err
	})
	return entries, at, err
}

// withReader calls read with a reader at one server after the other, until it
// succeeds, the error is the store's answer, or ctx ends. It returns the last
// server.
func (b *Backend) withReader(ctx context.Context, op request, read func(r *reader) error) (at string, err error) {
	for {
		r, err := b.newReader(ctx, op)
		if err == nil {
			err = r.blamed(ctx, read(r))
			if err != nil && ctx.Err() == nil && !backend.Judge(err).Final {
				continue
			}
		}
		return r.addr, err
	}
}

// reader reads a tree at one server, on the connection of an earlier request to
// the quorum.
type reader struct {
	b       *Backend
	request request
	addr    string
	on      *trackedConn
	size    batchSize
}

// newReader makes a request to the quorum and returns a reader at the server
// that answered first. Later reads there are not older than that answer.
func (b *Backend) newReader(ctx context.Context, r request) (*reader, error) {
	a, err := do(ctx, b, endpoint.Read, func(ctx context.Context, addr string) (*trackedConn, error) {
		return b.quorum(ctx, addr, r)
	})
	return &reader{b: b, request: r, addr: a.Endpoint, on: a.Value}, err
}

// reading makes requests on the reader's connection.
func reading[T any](ctx context.Context, r *reader, f func(ctx context.Context, c *zk.Conn) (T, error)) (T, error) {
	one, cancel := context.WithTimeout(ctx, r.b.pool.AttemptTimeout(endpoint.Read, r.b.c.Timing.RetryTimeout, 0))
	defer cancel()
	v, w, err := through(one, r.b, r.addr, r.request, func(c *zk.Conn) (T, error) { return f(one, c) })
	if err == nil && w != r.on {
		err = &backend.Failure{Endpoint: r.addr, Err: errBroken, Refused: true}
	}
	return v, err
}

// fewNodes is the largest number of nodes that are read one by one. More are
// read in one request, at which an older server ends the session.
const fewNodes = 64

func (r *reader) nodes(ctx context.Context, paths []string) ([]node, error) {
	var out []node
	for len(paths) > 0 {
		part := r.size.first(paths)
		if len(paths) <= fewNodes {
			part = paths
		}
		nodes, err := reading(ctx, r, func(ctx context.Context, c *zk.Conn) ([]node, error) { return r.read(ctx, c, part) })
		if errors.Is(err, errTooLarge) {
			continue // in smaller parts
		}
		if err != nil {
			return nil, err
		}
		out, paths = append(out, nodes...), paths[len(part):]
	}
	return out, nil
}

// read reads nodes in one request, if the server supports that.
func (r *reader) read(ctx context.Context, c *zk.Conn, paths []string) ([]node, error) {
	if len(paths) <= fewNodes || r.b.older(r.addr) {
		return readAll(c, paths)
	}
	replies, err := r.on.ask(ctx, []directRequest{multiReadRequest(paths)})
	if err != nil {
		return nil, err
	}
	if unknownTo(replies[0].code) {
		return nil, r.b.noteOlder(r.addr)
	}
	r.size.learn(len(paths), replies)
	nodes, err := multiNodes(replies[0], len(paths))
	if errors.Is(err, errTooLarge) {
		err = &backend.Failure{Endpoint: r.addr, Err: err}
	}
	return nodes, err
}

func (r *reader) lists(ctx context.Context, paths []string) ([]*listing, error) {
	if len(paths) == 0 {
		return nil, nil
	}
	return reading(ctx, r, func(ctx context.Context, _ *zk.Conn) ([]*listing, error) { return r.list(ctx, paths) })
}

// list lists the children of paths.
func (r *reader) list(ctx context.Context, paths []string) ([]*listing, error) {
	var requests []directRequest
	for _, path := range paths {
		requests = append(requests, pathRequest(opChildren2, path, false))
	}
	replies, err := r.on.ask(ctx, requests)
	if err != nil {
		return nil, err
	}
	out, err := r.b.listingsOf(r.addr, paths, replies)
	for i, l := range out {
		if l == nil {
			out[i] = &listing{}
		}
	}
	return out, err
}

// both reads nodes and lists others at the same time: the shorter the reading,
// the fewer changes fall into it.
func (r *reader) both(ctx context.Context, paths, branches []string) ([]node, []*listing, error) {
	type answer struct {
		nodes []node
		lists []*listing
	}
	got, err := reading(ctx, r, func(ctx context.Context, c *zk.Conn) (a answer, err error) {
		errs := make([]error, 2)
		together(2, func(i int) {
			if i == 0 {
				a.nodes, errs[0] = r.read(ctx, c, paths)
			} else if len(branches) > 0 {
				a.lists, errs[1] = r.list(ctx, branches)
			}
		})
		return a, errors.Join(errs...)
	})
	return got.nodes, got.lists, err
}

// gather reads everything at and below path.
func (r *reader) gather(ctx context.Context, path string) (view, error) {
	return gather(path, func(paths []string) ([]node, error) { return r.nodes(ctx, paths) },
		func(paths []string) ([]*listing, error) { return r.lists(ctx, paths) })
}

// errUnsettled reports that a tree is too large, or changes too often, to be
// read twice.
var errUnsettled = errors.New("the tree is large, or changes while it is read")

const (
	// fewReadings is the number of times that a changing tree is read again.
	fewReadings = 3
	// largeTree is the largest number of nodes that are read twice.
	largeTree = firstBatch
	// mostMirrors is the number of mirrors that Snapshots may use at a time.
	// Each is a connection, of which ZooKeeper accepts 60 from one address by
	// default.
	mostMirrors = 4
)

// stable reads everything at and below top repeatedly, until two readings prove
// its state between them. That is the cheapest way for a small tree that seldom
// changes.
func (r *reader) stable(ctx context.Context, top string) (view, dcs.Revision, error) {
	known, err := gather(top, func(paths []string) ([]node, error) {
		if len(paths) > largeTree {
			return nil, errUnsettled
		}
		return r.nodes(ctx, paths)
	}, func(paths []string) ([]*listing, error) { return r.lists(ctx, paths) })
	if len(known) > largeTree {
		err = errUnsettled
	}
	for range fewReadings {
		if err != nil {
			break
		}
		at := r.on.latest()
		var now view
		if now, err = r.again(ctx, top, known); err != nil {
			break
		}
		if v, ok := known.atRevision(now, top, at); ok {
			return v, at, nil
		}
		known = now
	}
	if err == nil || errors.Is(err, errTooLarge) {
		err = errUnsettled
	}
	return nil, 0, err
}

// mirrored reads everything at and below top once, in a session of its own that
// watches for changes during the reading. After that it reads only changed
// nodes again.
func (r *reader) mirrored(ctx context.Context, top string) (view, dcs.Revision, error) {
	select {
	case r.b.mirrors <- struct{}{}:
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
	free := func() { <-r.b.mirrors }
	m, err := r.b.newMirror(r.addr, top, r.request, free)
	if err != nil {
		free()
		return nil, 0, err
	}
	defer m.s.goodbye()
	rev, err := m.read(ctx, r.request, barrier)
	return m.nodes, rev, err
}

// blamed records a failure of the server if err means that the server did not
// answer a part of a read, or refused it because of too many requests. It
// returns err.
func (r *reader) blamed(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
	case errors.Is(err, context.DeadlineExceeded):
		r.b.pool.Blame(r.addr, "no answer to a part of a "+r.request.op)
	case errors.Is(err, errThrottled):
		r.b.pool.Failed(r.addr, err)
	}
	return err
}

// again reads the nodes of v once more, and the nodes that were created below
// them since.
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

// atRevision reconstructs the tree at the revision z from two reads. v ended
// before z, and later began after z. A node that was not changed after z had
// the state in later. A node that was changed once since v was read, and after
// z, had the state in v. A node that was created after z was not there. False
// means that the tree at z is unknown: a node was deleted, or changed twice.
func (v view) atRevision(later view, top string, z dcs.Revision) (view, bool) {
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

// arrived adds to out the children of a node that were created since it was
// listed and were there at z. It returns false also if a child was deleted:
// every creation and deletion counts in the node's cversion.
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
			return false // this is not the node that was listed
		case revision(n.stat.Czxid) > z:
		case n.stat.NumChildren > 0 || revision(n.stat.Mzxid) > z:
			return false
		default:
			out[path] = n
		}
	}
	return true
}
