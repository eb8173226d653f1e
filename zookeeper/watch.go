package zookeeper

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
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
		Read: func(ctx context.Context) (dcs.Snapshot, error) {
			s, _, err := b.snapshot(ctx, "")
			return s, err
		},
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

// watch is the tree at one server, in a session of its own: every node that
// tells of a change is read again, and nothing else is. ZooKeeper sends an
// answer after the news of all that was done before it, so that a tree of which
// no news is left to be read is that of the latest answer's moment.
type watch struct {
	b    *Backend
	copy *remote.Replica
	s    *session
	addr string

	nodes  view
	behind bool // a check is due

	mu     sync.Mutex
	values map[string]bool // nodes to be read again
	lists  map[string]bool // nodes whose children are to be listed again
	news   chan struct{}
}

// follow watches at one server, until it fails.
func (b *Backend) follow(ctx context.Context) error {
	at := b.pool.Pick(endpoint.Read)
	v := &watch{b: b, copy: &b.copy, addr: at.Endpoint(), nodes: view{}, values: map[string]bool{b.root: true}, lists: map[string]bool{}, news: make(chan struct{}, 1)}
	s, err := b.newSession(sessionOptions{ttl: b.linkTTL(), once: true, event: v.event})
	if err != nil {
		at.End(err)
		return err
	}
	v.s = s
	defer s.goodbye()
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

// event notes what has to be read again. It is called before any later answer
// is.
func (v *watch) event(ev zk.Event) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch ev.Type {
	case zk.EventNodeChildrenChanged:
		v.lists[ev.Path] = true
	case zk.EventNodeCreated, zk.EventNodeDeleted, zk.EventNodeDataChanged:
		v.values[ev.Path] = true
	default:
		return
	}
	select {
	case v.news <- struct{}{}:
	default:
	}
}

// owed takes what has to be read next.
func (v *watch) owed() (values, lists []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	values, lists = slices.Sorted(maps.Keys(v.values)), slices.Sorted(maps.Keys(v.lists))
	values = values[:min(len(values), atOnce)]
	for _, path := range values {
		delete(v.values, path)
	}
	clear(v.lists)
	return values, lists
}

func (v *watch) quiet() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.values)+len(v.lists) == 0
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
			err = v.read(ctx, request{op: "Wait"}, nil)
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
	return v.read(ctx, request{op: "Probe"}, barrier)
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

// read reads what has to be, until nothing has, and makes the copy what was
// read.
func (v *watch) read(ctx context.Context, r request, first func(c *zk.Conn) error) error {
	limit := v.b.pool.AttemptTimeout(endpoint.Read, v.b.c.Timing.RetryTimeout, 0)
	for again := true; again; {
		one, cancel := context.WithTimeout(ctx, limit)
		_, w, err := call(one, v.s, v.addr, r, func(c *zk.Conn) (struct{}, error) {
			if first != nil {
				if err := first(c); err != nil {
					return struct{}{}, err
				}
			}
			return struct{}{}, v.refresh(c)
		})
		cancel()
		if err != nil {
			return err
		}
		// In this order: the news before the latest answer has been noted.
		rev := w.latest()
		if again = !v.quiet(); !again {
			if err := v.copy.Take(rev, v.b.entries(v.nodes)); err != nil {
				return &remote.Failure{Endpoint: v.addr, Err: err, Blame: true}
			}
		}
		r, first = request{op: "Wait"}, nil
	}
	return nil
}

// refresh reads some of what has to be, and asks for news of it.
func (v *watch) refresh(c *zk.Conn) error {
	values, lists := v.owed()
	var (
		nodes []node
		below []*listing
		errs  [2]error
	)
	together(2, func(i int) {
		if i == 0 {
			nodes, errs[0] = v.readValues(c, values)
		} else {
			below, errs[1] = v.readLists(c, lists)
		}
	})
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	branches := slices.DeleteFunc(v.takeValues(values, nodes), func(path string) bool { return slices.Contains(lists, path) })
	v.takeLists(lists, below)
	below, err := v.readLists(c, branches)
	v.takeLists(branches, below)
	return err
}

func (v *watch) readValues(c *zk.Conn, paths []string) ([]node, error) {
	nodes, errs := make([]node, len(paths)), make([]error, len(paths))
	together(len(paths), func(i int) { nodes[i], errs[i] = v.readValue(c, paths[i]) })
	return nodes, errors.Join(errs...)
}

// takeValues takes what was read of nodes, and returns those whose children
// have to be listed.
func (v *watch) takeValues(paths []string, nodes []node) (branches []string) {
	for i, path := range paths {
		old, had := v.nodes[path]
		if !nodes[i].there {
			v.drop(path)
			continue
		}
		v.nodes[path] = nodes[i]
		if nodes[i].branch() && !(had && old.branch() && old.stat.Czxid == nodes[i].stat.Czxid) {
			branches = append(branches, path)
		}
	}
	return branches
}

func (v *watch) readValue(c *zk.Conn, path string) (node, error) {
	for {
		value, stat, _, err := c.GetW(path)
		switch {
		case err == nil:
			return node{there: true, stat: *stat, value: value}, nil
		case !errors.Is(err, zk.ErrNoNode):
			return node{}, err
		case path != v.b.root:
			return node{}, nil // its parent tells if it comes back
		}
		if there, _, _, err := c.ExistsW(path); err != nil || !there {
			return node{}, err
		}
	}
}

// readLists lists what is directly below nodes; nil is of a node that is not
// there.
func (v *watch) readLists(c *zk.Conn, paths []string) ([]*listing, error) {
	out, errs := make([]*listing, len(paths)), make([]error, len(paths))
	together(len(paths), func(i int) {
		names, stat, _, err := c.ChildrenW(paths[i])
		switch {
		case err == nil:
			out[i] = &listing{stat: *stat, paths: v.b.children(paths[i], names)}
		case !errors.Is(err, zk.ErrNoNode):
			errs[i] = err
		}
	})
	return out, errors.Join(errs...)
}

// takeLists takes what was listed. A node that was not there then may be there
// now: what tells is its value, and then it is listed again.
func (v *watch) takeLists(paths []string, below []*listing) {
	for i, l := range below {
		if l == nil {
			v.drop(paths[i])
			v.owe(paths[i])
			continue
		}
		v.list(paths[i], l)
	}
}

// owe notes a node that is to be read again.
func (v *watch) owe(path string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.values[path] = true
}

// list takes the children of a node.
func (v *watch) list(path string, l *listing) {
	if n, ok := v.nodes[path]; ok {
		n.stat = l.stat
		v.nodes[path] = n
	}
	now := map[string]bool{}
	for _, child := range l.paths {
		now[child] = true
		if _, ok := v.nodes[child]; !ok {
			v.owe(child)
		}
	}
	for child := range v.nodes {
		if rest, ok := strings.CutPrefix(child, path+"/"); ok && !strings.Contains(rest, "/") && !now[child] {
			v.drop(child)
		}
	}
}

// drop takes a node out, and what is below it. What was known of it is not true
// any more: a write that waits for its end need not look.
func (v *watch) drop(path string) {
	for p := range v.nodes {
		if p == path || strings.HasPrefix(p, path+"/") {
			delete(v.nodes, p)
			v.b.known.Forget(v.b.key(p))
		}
	}
}
