package raftstore

import (
	"sort"
	"sync"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/kvtree"
)

const (
	// feedChanges and feedBytes bound the changes that a node keeps for its
	// clients. A client that is further behind gets the whole tree.
	feedChanges = 4096
	feedBytes   = 4 << 20
	// pushBytes bounds the changes in one message to a client. A single larger change
	// is a message too.
	pushBytes = 256 << 10
)

// feed keeps the latest changes on this node, for the streams of clients.
type feed struct {
	tree *kvtree.Tree

	mu   sync.Mutex
	base uint64 // changes up to this entry are not kept
	end  uint64 // the newest entry that was applied
	list []treeChange
	size int
	news chan struct{} // closed at the next change; nil while no stream waits
}

// treeChange has the changes of one entry.
type treeChange struct {
	index   uint64
	wrote   []dcs.Entry
	deleted []string
	encoded []byte // made when it is sent for the first time
}

func newFeed(tree *kvtree.Tree) *feed { return &feed{tree: tree} }

// changed records the changes of an entry. It is [state.FSM.OnChange].
func (f *feed) changed(index uint64, keys []string) {
	c := treeChange{index: index}
	for _, key := range keys {
		if e, ok := f.tree.Get(key); ok {
			c.wrote = append(c.wrote, e)
		} else {
			c.deleted = append(c.deleted, key)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.end = index
	switch {
	case keys == nil:
		f.list, f.size, f.base = nil, 0, index
	case len(keys) == 0:
		return
	default:
		f.list = append(f.list, c)
		f.size += c.bytes()
		f.shorten()
	}
	if f.news != nil {
		close(f.news)
		f.news = nil
	}
}

// shorten drops the oldest changes above the bounds. The caller holds the lock.
func (f *feed) shorten() {
	drop := 0
	for len(f.list)-drop > feedChanges || f.size > feedBytes {
		f.size -= f.list[drop].bytes()
		f.base = f.list[drop].index
		drop++
	}
	clear(f.list[:drop]) // the array may live on for a while
	f.list = f.list[drop:]
}

func (c *treeChange) bytes() int {
	size := entriesSize(c.wrote)
	for _, key := range c.deleted {
		size += 8 + len(key)
	}
	return size
}

// next returns a channel that is closed at the next change.
func (f *feed) next() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.news == nil {
		f.news = make(chan struct{})
	}
	return f.news
}

// since returns a message with changes after entry pos, or nil if there are none.
// With it the receiver has all changes up to the entry upTo. kept is false if the
// changes that follow pos are not kept any more.
func (f *feed) since(pos uint64) (message []byte, upTo uint64, kept bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if pos < f.base {
		return nil, pos, false
	}
	from := sort.Search(len(f.list), func(i int) bool { return f.list[i].index > pos })
	to, size := from, 0
	for to < len(f.list) && (to == from || size < pushBytes) {
		size += f.list[to].bytes()
		to++
	}
	if from == to {
		return nil, max(pos, f.end), true
	}
	return encodeChanges(f.list[from:to], size), f.list[to-1].index, true
}
