// Package kv is the ordered tree of keys, leases and revisions that memstore
// and raftstore keep. It is deterministic: it reads no clock, and the caller
// gives every change its revision. All methods are safe for concurrent use.
package kv

import (
	"errors"
	"strings"
	"sync"

	iradix "github.com/hashicorp/go-immutable-radix/v2"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// ErrLease says that a put is bound to a lease that is not live. Nothing was written.
var ErrLease = errors.New("the lease is not live")

// ErrNested says that a key would lie below another one. Nothing was written.
var ErrNested = errors.New("the key would lie below or above one that exists: a key never has keys below it, use a sibling")

// Conflict is the first condition that failed, and the entry that was found.
type Conflict struct {
	Cond    dcs.Cond
	Current *dcs.Entry // nil when the key is absent
}

// Error says which condition failed.
func (c *Conflict) Error() string {
	return "the condition on " + c.Cond.On.String() + " of " + c.Cond.Key + " failed"
}

// Hidden reports whether key is reserved for bookkeeping: its first part
// begins with a dot.
func Hidden(key string) bool { return strings.HasPrefix(key, ".") }

// Tree is the keys, the live leases and the position of one store.
type Tree struct {
	mu       sync.RWMutex
	rev      dcs.Revision
	entries  *iradix.Tree[*dcs.Entry]
	leases   map[dcs.LeaseID]map[string]struct{} // live leases and the keys bound to them
	moved    map[string]dcs.Revision             // per key and each prefix of it: its last change
	floor    dcs.Revision                        // what moved is taken to be where it has no record
	waiters  map[string]*waiter                  // per prefix that is watched
	maxMoved int
}

// New returns an empty tree at revision 0.
func New() *Tree {
	return &Tree{
		entries:  iradix.New[*dcs.Entry](),
		leases:   map[dcs.LeaseID]map[string]struct{}{},
		moved:    map[string]dcs.Revision{},
		waiters:  map[string]*waiter{},
		maxMoved: 1 << 16,
	}
}

// Revision returns the position of the tree: the largest revision given to it.
func (t *Tree) Revision() dcs.Revision {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.rev
}

// Advance moves the position to rev without changing any key. A smaller rev
// changes nothing.
func (t *Tree) Advance(rev dcs.Revision) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rev = max(t.rev, rev)
}

// Get returns the entry of key. Its value is shared: read-only.
func (t *Tree) Get(key string) (dcs.Entry, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if e, ok := t.entries.Get([]byte(key)); ok {
		return *e, true
	}
	return dcs.Entry{}, false
}

// Snapshot returns prefix itself and everything below it, sorted, bookkeeping
// keys included, with the tree's position.
func (t *Tree) Snapshot(prefix string) dcs.Snapshot {
	t.mu.RLock()
	root, rev := t.entries.Root(), t.rev
	t.mu.RUnlock()
	s := dcs.Snapshot{Revision: rev}
	below := ""
	if prefix != "" {
		if e, ok := root.Get([]byte(prefix)); ok {
			s.Entries = append(s.Entries, *e)
		}
		below = prefix + "/"
	}
	it := root.Iterator()
	it.SeekPrefix([]byte(below))
	for _, e, ok := it.Next(); ok; _, e, ok = it.Next() {
		s.Entries = append(s.Entries, *e)
	}
	return s
}

// MovedSince reports whether anything at or below prefix was written or
// deleted after revision since. It may say yes without a change when since is
// older than the tree's memory, never no after one. Revision 0 is older than
// every tree, so that everything has moved since.
func (t *Tree) MovedSince(prefix string, since dcs.Revision) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.movedSince(prefix, since)
}

func (t *Tree) movedSince(prefix string, since dcs.Revision) bool {
	if since == 0 {
		return true
	}
	if rev, ok := t.moved[prefix]; ok {
		return rev > since
	}
	return t.floor > since
}

// Live reports whether lease was granted and has not ended.
func (t *Tree) Live(lease dcs.LeaseID) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	_, ok := t.leases[lease]
	return ok
}

// Leases returns the live leases, in no order.
func (t *Tree) Leases() []dcs.LeaseID {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := make([]dcs.LeaseID, 0, len(t.leases))
	for id := range t.leases {
		out = append(out, id)
	}
	return out
}

// Bound returns the keys bound to lease, in no order.
func (t *Tree) Bound(lease dcs.LeaseID) []string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := make([]string, 0, len(t.leases[lease]))
	for k := range t.leases[lease] {
		out = append(out, k)
	}
	return out
}
