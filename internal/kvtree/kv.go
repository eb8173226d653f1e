// Package kvtree has the ordered tree of keys, leases and revisions in which memstore and
// raftstore keep their data. It is deterministic: it reads no clock, and the caller passes
// the revision of every change. All methods are safe for concurrent use.
package kvtree

import (
	"errors"
	"strings"
	"sync"

	iradix "github.com/hashicorp/go-immutable-radix/v2"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// ErrLease reports that a put is bound to a lease that is not live. Nothing was written.
var ErrLease = errors.New("the lease is not live")

// ErrNested reports that a key would lie below another one. Nothing was written.
var ErrNested = errors.New("the key would lie below or above an existing one: a key must not have keys below it, use a sibling")

// Conflict is the first condition that failed, with the entry found.
type Conflict struct {
	Cond    dcs.Cond
	Current *dcs.Entry // nil when the key is absent
}

// Error names the condition that failed.
func (c *Conflict) Error() string {
	return "the condition on " + c.Cond.On.String() + " of " + c.Cond.Key + " failed"
}

// Hidden reports whether key is reserved for bookkeeping, which means that its first part
// begins with a dot.
func Hidden(key string) bool { return strings.HasPrefix(key, ".") }

// Tree holds the keys, the live leases and the position of one store.
type Tree struct {
	mu          sync.RWMutex
	rev         dcs.Revision
	entries     *iradix.Tree[*dcs.Entry]
	leases      map[dcs.LeaseID]map[string]struct{} // live leases and the keys bound to them
	moved       map[string]dcs.Revision             // per key and each prefix of it: its last change
	forgottenAt dcs.Revision                        // the last change of a prefix without a record in moved, at the latest
	waiters     map[string]*waiter                  // per prefix that is watched
	maxMoved    int
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

// Revision returns the position of the tree, which is the largest revision passed to it.
func (t *Tree) Revision() dcs.Revision {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.rev
}

// Advance moves the position to rev without changing a key. A smaller rev has no effect.
func (t *Tree) Advance(rev dcs.Revision) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rev = max(t.rev, rev)
}

// Get returns the entry of key. Its value is shared and must not be modified.
func (t *Tree) Get(key string) (dcs.Entry, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if e, ok := t.entries.Get([]byte(key)); ok {
		return *e, true
	}
	return dcs.Entry{}, false
}

// Snapshot returns the entry of prefix itself and of every key below it, sorted and
// including bookkeeping keys, with the tree's position.
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

// MovedSince reports whether a key at or below prefix was written or deleted after revision
// since. It may return true without a change if since is older than the tree's records, and
// never returns false after a change. Revision 0 is older than every tree, so that it
// always returns true for it.
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
	return t.forgottenAt > since
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
