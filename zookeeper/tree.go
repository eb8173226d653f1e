package zookeeper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/go-zookeeper/zk"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Where things are. Every key is a node below the root with its plain value,
// ephemeral where it is bound to a lease: what other clients, Patroni among
// them, read and write. Ours alone are the markers (.op), the epochs (.epoch)
// and the value of a parent that we made.
const (
	epochs    = ".epoch"
	markers   = ".op"
	epochSize = 16
)

// parentValue tells a parent of ours from a key with an empty value.
var parentValue = []byte("\x00holdfast: a parent of keys\x00")

func (b *Backend) path(key string) string {
	if key == "" {
		return b.root
	}
	return b.root + "/" + key
}

func (b *Backend) key(path string) string { return strings.TrimPrefix(path, b.root+"/") }

// epochOf is the node that is written whenever key is created: of all keys
// with one hash.
func (b *Backend) epochOf(key string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(key))
	return b.path(epochs + "/" + strconv.Itoa(int(h.Sum32()%epochSize)))
}

// parents are the nodes above path, the highest first.
func parents(path string) []string {
	var out []string
	for i := 1; i < len(path); i++ {
		if path[i] == '/' {
			out = append(out, path[:i])
		}
	}
	return out
}

// node is what was read of one.
type node struct {
	there bool
	stat  zk.Stat
	value []byte
}

// entry reports whether n is a key with a value, and not only a parent.
func (n node) entry() bool {
	return n.there && n.stat.NumChildren == 0 && !bytes.Equal(n.value, parentValue) && (n.stat.Cversion == 0 || len(n.value) > 0)
}

// branch reports whether n may have, or get, nodes below it that are keys.
func (n node) branch() bool {
	return n.there && n.stat.EphemeralOwner == 0 && (n.stat.NumChildren > 0 || len(n.value) == 0 || bytes.Equal(n.value, parentValue))
}

func (n node) of(key string) dcs.Entry {
	return dcs.Entry{
		Key: key, Value: n.value, Lease: leaseID(n.stat.EphemeralOwner),
		Created: dcs.Revision(n.stat.Czxid), Modified: dcs.Revision(n.stat.Mzxid), //nolint:gosec // G115: zxids are not negative
	}
}

func leaseID(session int64) dcs.LeaseID {
	if session == 0 {
		return ""
	}
	return dcs.LeaseID(fmt.Sprintf("%#x", uint64(session))) //nolint:gosec // G115: as ZooKeeper writes it
}

func read(c *zk.Conn, path string) (node, error) {
	value, stat, err := c.Get(path)
	if errors.Is(err, zk.ErrNoNode) {
		return node{}, nil
	}
	if err != nil {
		return node{}, err
	}
	return node{true, *stat, value}, nil
}

// readAll reads several nodes at once: in the order in which they are asked,
// one after the other, but without waiting for each answer.
func readAll(c *zk.Conn, paths []string) ([]node, error) {
	out, errs := make([]node, len(paths)), make([]error, len(paths))
	together(len(paths), func(i int) { out[i], errs[i] = read(c, paths[i]) })
	return out, errors.Join(errs...)
}

// together runs f for 0 to n-1 at once.
func together(n int, f func(i int)) {
	if n == 1 {
		f(0)
		return
	}
	var all sync.WaitGroup
	for i := range n {
		all.Add(1)
		go func() { defer all.Done(); f(i) }()
	}
	all.Wait()
}

// barrier is a transaction of the quorum that changes nothing: what is read
// after it on the same connection is not older than it.
func barrier(c *zk.Conn) error {
	_, err := c.Multi(&zk.CheckVersionRequest{Path: "/", Version: -1})
	return err
}

// view is a tree as it was read, node by node.
type view map[string]node

// collect reads everything at and below path.
func collect(c *zk.Conn, path string, skip func(path string) bool) (view, error) {
	out := view{}
	for level := []string{path}; len(level) > 0; {
		nodes, err := readAll(c, level)
		if err != nil {
			return nil, err
		}
		var branches []string
		for i, n := range nodes {
			if n.there {
				out[level[i]] = n
			}
			if n.there && n.stat.NumChildren > 0 {
				branches = append(branches, level[i])
			}
		}
		if level, _, err = below(c, branches, skip); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// below lists what is directly below paths, with what their nodes say at that
// moment.
func below(c *zk.Conn, paths []string, skip func(path string) bool) ([]string, []*zk.Stat, error) {
	names, stats, errs := make([][]string, len(paths)), make([]*zk.Stat, len(paths)), make([]error, len(paths))
	together(len(paths), func(i int) {
		names[i], stats[i], errs[i] = c.Children(paths[i])
		if errors.Is(errs[i], zk.ErrNoNode) {
			errs[i], stats[i] = nil, &zk.Stat{}
		}
	})
	var out []string
	for i, path := range paths {
		for _, name := range names[i] {
			if child := path + "/" + name; !skip(child) {
				out = append(out, child)
			}
		}
	}
	return out, stats, errors.Join(errs...)
}

// same reports whether the nodes of two views, read one after the other, were
// not changed in between.
func (v view) same(other view) bool {
	if len(v) != len(other) {
		return false
	}
	for path, n := range v {
		o, ok := other[path]
		if !ok || n.stat.Czxid != o.stat.Czxid || n.stat.Mzxid != o.stat.Mzxid || n.stat.Pzxid != o.stat.Pzxid {
			return false
		}
	}
	return true
}

// entries are the keys of a view.
func (b *Backend) entries(v view) []dcs.Entry {
	out := make([]dcs.Entry, 0, len(v))
	for path, n := range v {
		if path != b.root && n.entry() {
			out = append(out, n.of(b.key(path)))
		}
	}
	slices.SortFunc(out, func(x, y dcs.Entry) int { return strings.Compare(x.Key, y.Key) })
	return out
}

// hidden reports whether path is bookkeeping.
func (b *Backend) hidden(path string) bool {
	return strings.HasPrefix(path, b.root+"/.")
}

// again reads the nodes of v once more, all at once, and those that are below
// them and not in v. same says that there are none, and that nothing was
// changed between the last reading of v and the first of now.
func (v view) again(c *zk.Conn, top string, skip func(path string) bool) (now view, same bool, err error) {
	paths := []string{top}
	var branches []string
	for path, n := range v {
		if path != top {
			paths = append(paths, path)
		}
		if n.stat.NumChildren > 0 {
			branches = append(branches, path)
		}
	}
	var nodes []node
	var names []string
	var stats []*zk.Stat
	errs := make([]error, 2)
	together(2, func(i int) {
		if i == 0 {
			nodes, errs[0] = readAll(c, paths)
		} else {
			names, stats, errs[1] = below(c, branches, skip)
		}
	})
	if err := errors.Join(errs...); err != nil {
		return nil, false, err
	}
	now = view{}
	for i, n := range nodes {
		if n.there {
			now[paths[i]] = n
		}
	}
	same = v.same(now)
	for i, path := range branches {
		same = same && stats[i].Pzxid == v[path].stat.Pzxid
	}
	for _, path := range names {
		if _, ok := v[path]; ok {
			continue
		}
		same = false
		fresh, err := collect(c, path, skip)
		if err != nil {
			return nil, false, err
		}
		maps.Copy(now, fresh)
	}
	return now, same, nil
}

// stable reads everything at and below path as it was at one moment: twice
// without a change in between, after a transaction of the quorum.
func (b *Backend) stable(ctx context.Context, s *session, addr string, r request, path string) (view, dcs.Revision, error) {
	var known view
	var at dcs.Revision
	for {
		same := false
		now, w, err := call(ctx, s, addr, r, func(c *zk.Conn) (now view, err error) {
			if known != nil {
				now, same, err = known.again(c, path, b.hidden)
				return now, err
			}
			if err := barrier(c); err != nil {
				return nil, err
			}
			return collect(c, path, b.hidden)
		})
		switch {
		case err != nil:
			return nil, 0, err
		case same:
			return known, at, nil
		}
		// Where nothing is changed from here to the next reading, this is the
		// tree of this moment.
		known, at = now, w.latest()
	}
}
