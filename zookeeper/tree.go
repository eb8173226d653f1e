package zookeeper

import (
	"bytes"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/go-zookeeper/zk"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// The layout of the tree. Every key is a node below the root with its plain
// value, ephemeral if it is bound to a lease. Other clients, such as Patroni,
// read and write these nodes. Only Stores use the markers (.op), the epochs
// (.epoch) and the value of a parent that a Store made.
const (
	epochs    = ".epoch"
	markers   = ".op"
	epochSize = 16
)

// parentValue distinguishes a parent that a Store made from a key with an empty
// value.
var parentValue = []byte("\x00holdfast: a parent of keys\x00")

func (b *Backend) path(key string) string {
	if key == "" {
		return b.root
	}
	return b.root + "/" + key
}

func (b *Backend) key(path string) string { return strings.TrimPrefix(path, b.root+"/") }

// keyOf returns the key whose node is at path. It reports false for the root,
// for the nodes above the root, and for bookkeeping.
func (b *Backend) keyOf(path string) (string, bool) {
	key, ok := strings.CutPrefix(path, b.root+"/")
	return key, ok && !strings.HasPrefix(key, ".")
}

// epochOf returns the epoch node of key. It is written whenever a key with the
// same hash is created.
func (b *Backend) epochOf(key string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(key))
	return b.path(epochs + "/" + strconv.Itoa(int(h.Sum32()%epochSize)))
}

// parents returns the paths of the nodes above path, the highest first.
func parents(path string) []string {
	var out []string
	for i := 1; i < len(path); i++ {
		if path[i] == '/' {
			out = append(out, path[:i])
		}
	}
	return out
}

// node is a node that was read, with its children if they were listed.
type node struct {
	there bool
	stat  zk.Stat
	value []byte
	below *listing
}

// listing holds the children of a node at one moment, without bookkeeping.
type listing struct {
	paths []string
	stat  zk.Stat
}

// parent reports whether n is a parent that a Store made.
func (n node) parent() bool { return bytes.Equal(n.value, parentValue) }

// entry reports whether n is a key with a value, and not only a parent.
func (n node) entry() bool {
	return n.there && n.stat.NumChildren == 0 && !n.parent() && (n.stat.Cversion == 0 || len(n.value) > 0)
}

// branch reports whether n has, or may get, nodes below it that are keys.
func (n node) branch() bool {
	return n.there && n.stat.EphemeralOwner == 0 && (n.stat.NumChildren > 0 || len(n.value) == 0 || n.parent())
}

func (n node) of(key string) dcs.Entry {
	return dcs.Entry{
		Key: key, Value: n.value, Lease: leaseID(n.stat.EphemeralOwner),
		Created: revision(n.stat.Czxid), Modified: revision(n.stat.Mzxid),
	}
}

// revision converts a zxid to a Revision.
func revision(zxid int64) dcs.Revision { return dcs.Revision(zxid) }

func leaseID(session int64) dcs.LeaseID {
	if session == 0 {
		return ""
	}
	return dcs.LeaseID(fmt.Sprintf("%#x", uint64(session)))
}

func read(c *zk.Conn, path string) (node, error) {
	value, stat, err := c.Get(path)
	if errors.Is(err, zk.ErrNoNode) {
		return node{}, nil
	}
	if err != nil {
		return node{}, named(err)
	}
	return node{there: true, stat: *stat, value: value}, nil
}

// multi makes a transaction.
func multi(c *zk.Conn, ops ...any) ([]zk.MultiResponse, error) {
	results, err := c.Multi(ops...)
	return results, named(err)
}

// readAll reads several nodes at once. It sends the requests one after the
// other without waiting for each answer; the server executes them in their
// order.
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

// barrier makes a transaction of the quorum that changes nothing. A later read
// on the same connection is not older than it.
func barrier(c *zk.Conn) error {
	_, err := multi(c, &zk.CheckVersionRequest{Path: "/", Version: -1})
	return err
}

// askQuorum makes a barrier as a call of its own.
func askQuorum(c *zk.Conn) (struct{}, error) { return struct{}{}, barrier(c) }

// view is a tree that was read node by node.
type view map[string]node

// gather reads everything at and below path, level by level.
func gather(path string, read func(paths []string) ([]node, error), list func(paths []string) ([]*listing, error)) (view, error) {
	out := view{}
	for level := []string{path}; len(level) > 0; {
		nodes, err := read(level)
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
		lists, err := list(branches)
		if err != nil {
			return nil, err
		}
		level = nil
		for i, l := range lists {
			out.listed(branches[i], l)
			level = append(level, l.paths...)
		}
	}
	return out, nil
}

// listed records the children of a node.
func (v view) listed(path string, l *listing) {
	if n, ok := v[path]; ok {
		n.below = l
		v[path] = n
	}
}

// children returns the nodes below path that are not bookkeeping.
func (b *Backend) children(path string, names []string) []string {
	var out []string
	for _, name := range names {
		if child := path + "/" + name; !b.hidden(child) {
			out = append(out, child)
		}
	}
	return out
}

// entries returns the keys of a view.
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
