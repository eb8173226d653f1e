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

// keyOf returns the key whose node is at path. It reports false for the root,
// for what is above the root, and for bookkeeping.
func (b *Backend) keyOf(path string) (string, bool) {
	key, ok := strings.CutPrefix(path, b.root+"/")
	return key, ok && !strings.HasPrefix(key, ".")
}

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

// node is what was read of one, and of the nodes directly below it where it was
// listed.
type node struct {
	there bool
	stat  zk.Stat
	value []byte
	below *listing
}

// listing is what was directly below a node at one moment, bookkeeping left
// out.
type listing struct {
	paths []string
	stat  zk.Stat
}

// parent reports whether n is a parent that we made.
func (n node) parent() bool { return bytes.Equal(n.value, parentValue) }

// entry reports whether n is a key with a value, and not only a parent.
func (n node) entry() bool {
	return n.there && n.stat.NumChildren == 0 && !n.parent() && (n.stat.Cversion == 0 || len(n.value) > 0)
}

// branch reports whether n may have, or get, nodes below it that are keys.
func (n node) branch() bool {
	return n.there && n.stat.EphemeralOwner == 0 && (n.stat.NumChildren > 0 || len(n.value) == 0 || n.parent())
}

func (n node) of(key string) dcs.Entry {
	return dcs.Entry{
		Key: key, Value: n.value, Lease: leaseID(n.stat.EphemeralOwner),
		Created: revision(n.stat.Czxid), Modified: revision(n.stat.Mzxid),
	}
}

// revision is a zxid as the contract has it.
func revision(zxid int64) dcs.Revision { return dcs.Revision(zxid) } //nolint:gosec // G115: zxids are not negative

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
	return node{there: true, stat: *stat, value: value}, nil
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

// askQuorum is the barrier as a call of its own.
func askQuorum(c *zk.Conn) (struct{}, error) { return struct{}{}, barrier(c) }

// view is a tree as it was read, node by node.
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

// listed notes what is below a node.
func (v view) listed(path string, l *listing) {
	if n, ok := v[path]; ok {
		n.below = l
		v[path] = n
	}
}

// children are the nodes below path that are no bookkeeping.
func (b *Backend) children(path string, names []string) []string {
	var out []string
	for _, name := range names {
		if child := path + "/" + name; !b.hidden(child) {
			out = append(out, child)
		}
	}
	return out
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
