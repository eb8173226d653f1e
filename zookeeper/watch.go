package zookeeper

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
	"github.com/holdfast-dcs/holdfast/internal/remote"
)

// source is what the copy of the tree is made from.
func (b *Backend) source() remote.Source {
	return remote.Source{
		Backend: backendName, Budget: b.c.Timing.RetryTimeout, Life: b.life,
		Snapshot: b.Snapshot, Raise: b.floor.Raise, Still: b.still, Follow: b.follow,
	}
}

// Wait implements [dcs.Backend].
func (b *Backend) Wait(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, error) {
	return b.copy.Wait(ctx, prefix, since)
}

// still looks when a node was last made or taken away at or below prefix: a
// parent tells. Where there is nothing now, those above tell, of more than is
// asked.
func (b *Backend) still(ctx context.Context, prefix string, since dcs.Revision, _ map[string]bool) bool {
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

// above reads the nodes above path, as far as they are the store's.
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

// watch keeps the copy of the tree like the one at one server.
type watch struct {
	*mirror
	copy   *remote.Replica
	loaded bool // the copy is like the mirror
	behind bool // a check is due
}

// follow watches at one server, until it fails.
func (b *Backend) follow(ctx context.Context) error {
	at := b.pool.Pick(endpoint.Read)
	m, err := b.newMirror(at.Endpoint(), b.root, request{op: "Wait"}, nil)
	if err != nil {
		at.End(err)
		return err
	}
	m.heard = b.copy.Alive
	v := &watch{mirror: m, copy: &b.copy}
	defer v.s.goodbye()
	err = v.ask(ctx) // from here on it is not older than what was seen before
	at.End(err)
	if err == nil {
		err = v.loop(ctx)
	}
	if err != nil && ctx.Err() == nil && remote.Judge(err).Blame {
		b.pool.Blame(v.addr, err.Error())
	}
	return err
}

func (v *watch) loop(ctx context.Context) error {
	quiet := time.NewTimer(v.copy.Every)
	defer quiet.Stop()
	check := time.NewTimer(time.Hour) // for a view that may lag
	check.Stop()
	defer check.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-v.s.done:
			return &remote.Failure{Endpoint: v.addr, Err: v.s.ended(), Blame: true}
		case <-v.news:
			err = v.update(ctx, v.op, nil)
			quiet.Reset(v.copy.Every)
		case <-v.copy.Behind:
			if !v.behind {
				v.behind = true
				check.Reset(v.copy.Limit)
			}
		case <-check.C:
			v.behind = false
			err = v.catchUp(ctx)
		case <-quiet.C:
			err = v.ask(ctx)
			quiet.Reset(v.copy.Every)
		case addr := <-v.copy.Left:
			if addr == v.addr {
				return fmt.Errorf("%s was left out", addr)
			}
		}
		if err != nil {
			return err
		}
	}
}

// ask asks the quorum through the server, which brings the view up to now.
func (v *watch) ask(ctx context.Context) error {
	return v.update(ctx, request{op: "Probe"}, barrier)
}

// catchUp asks where the view is behind what another answer named: it may be
// that nothing in the tree was changed by it.
func (v *watch) catchUp(ctx context.Context) error {
	latest := v.copy.Latest()
	if v.copy.Tree.Revision() >= latest {
		return nil
	}
	if err := v.ask(ctx); err != nil {
		return err
	}
	if v.copy.Tree.Revision() < latest {
		return &remote.Failure{Endpoint: v.addr, Err: remote.ErrBehind, Blame: true}
	}
	return nil
}

// update reads what has to be, and makes the copy what was read.
func (v *watch) update(ctx context.Context, op request, first func(c *zk.Conn) error) error {
	rev, err := v.read(ctx, op, first)
	if err != nil {
		return err
	}
	if !v.loaded {
		err = v.copy.Take(rev, v.b.entries(v.nodes))
		clear(v.changed)
	} else {
		wrote, deleted := v.taken(v.copy.Tree.Get)
		err = v.copy.Apply(rev, wrote, deleted)
	}
	if err != nil {
		return &remote.Failure{Endpoint: v.addr, Err: err, Blame: true}
	}
	v.loaded = true
	return nil
}
