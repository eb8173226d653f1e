package kvtree

import (
	"fmt"
	"sort"

	iradix "github.com/hashicorp/go-immutable-radix/v2"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Options select the behaviour of a Commit in which stores differ.
type Options struct {
	// Rebind keeps a key's Created when its binding changes. Without it, a changed
	// binding re-creates the entry.
	Rebind bool
}

// Check returns a *Conflict for the first condition that fails, or nil.
func (t *Tree) Check(conds []dcs.Cond) error {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.check(conds)
}

func (t *Tree) check(conds []dcs.Cond) error {
	for _, c := range conds {
		e, found := t.entries.Get([]byte(c.Key))
		var is dcs.Revision
		switch {
		case !found:
		case c.On == dcs.Created:
			is = e.Created
		default:
			is = e.Modified
		}
		if is == c.Is {
			continue
		}
		conflict := &Conflict{Cond: c}
		if found {
			current := *e
			conflict.Current = &current
		}
		return conflict
	}
	return nil
}

// Commit applies x at revision rev if its conditions hold. It applies all of it or, with an
// error (a *Conflict, ErrLease, ErrNested), nothing of it. The position moves to rev in
// either case. rev must be larger than every earlier one.
func (t *Tree) Commit(rev dcs.Revision, x dcs.Txn, o Options) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rev = max(t.rev, rev)
	if err := t.check(x.If); err != nil {
		return err
	}
	for _, w := range x.Then {
		if w.Delete {
			continue
		}
		if w.Lease != "" {
			if _, live := t.leases[w.Lease]; !live {
				return ErrLease
			}
		}
		if t.nested(w.Key) {
			return ErrNested
		}
	}
	txn := t.entries.Txn()
	for _, w := range x.Then {
		if w.Delete {
			t.remove(txn, rev, w.Key)
		} else {
			t.put(txn, rev, w, o)
		}
	}
	t.entries = txn.Commit()
	return nil
}

// nested reports whether key, which is about to be written, has a key above or below it. An
// existing key was checked when it was created.
func (t *Tree) nested(key string) bool {
	if _, ok := t.entries.Get([]byte(key)); ok {
		return false
	}
	for i := range len(key) {
		if key[i] != '/' {
			continue
		}
		if _, ok := t.entries.Get([]byte(key[:i])); ok {
			return true
		}
	}
	it := t.entries.Root().Iterator()
	it.SeekPrefix([]byte(key + "/"))
	_, _, below := it.Next()
	return below
}

func (t *Tree) put(txn *iradix.Txn[*dcs.Entry], rev dcs.Revision, w dcs.Write, o Options) {
	e := &dcs.Entry{Key: w.Key, Value: w.Value, Created: rev, Modified: rev, Lease: w.Lease}
	if old, ok := txn.Get([]byte(w.Key)); ok {
		if o.Rebind || old.Lease == w.Lease {
			e.Created = old.Created
		}
		if old.Lease != "" {
			delete(t.leases[old.Lease], w.Key)
		}
	}
	if w.Lease != "" {
		t.leases[w.Lease][w.Key] = struct{}{}
	}
	txn.Insert([]byte(w.Key), e)
	t.touch(rev, w.Key)
}

func (t *Tree) remove(txn *iradix.Txn[*dcs.Entry], rev dcs.Revision, key string) bool {
	old, ok := txn.Delete([]byte(key))
	if !ok {
		return false
	}
	if old.Lease != "" {
		delete(t.leases[old.Lease], key)
	}
	t.touch(rev, key)
	return true
}

// touch records that key changed at rev, for the key and for every prefix of it, and wakes
// the Watches of these.
func (t *Tree) touch(rev dcs.Revision, key string) {
	t.touchPrefix(rev, "")
	for i := range len(key) {
		if key[i] == '/' {
			t.touchPrefix(rev, key[:i])
		}
	}
	t.touchPrefix(rev, key)
	if len(t.moved) > t.maxMoved+4*t.entries.Len() {
		t.forget()
	}
}

func (t *Tree) touchPrefix(rev dcs.Revision, prefix string) {
	t.moved[prefix] = rev
	t.wake(prefix)
}

// forget drops the records of past changes, because those of deleted keys would otherwise
// stay for ever. For an older revision MovedSince then returns true.
func (t *Tree) forget() {
	clear(t.moved)
	t.forgottenAt = t.rev
}

// Grant makes lease live. It returns false if it was live already.
func (t *Tree) Grant(lease dcs.LeaseID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.leases[lease]; ok {
		return false
	}
	t.leases[lease] = map[string]struct{}{}
	return true
}

// EndLease ends lease at revision rev and removes every key bound to it. It returns the
// removed keys, sorted, or nil if the lease was not live.
func (t *Tree) EndLease(rev dcs.Revision, lease dcs.LeaseID) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rev = max(t.rev, rev)
	bound, ok := t.leases[lease]
	if !ok {
		return nil
	}
	keys := make([]string, 0, len(bound))
	for k := range bound {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	txn := t.entries.Txn()
	for _, k := range keys {
		t.remove(txn, rev, k)
	}
	t.entries = txn.Commit()
	delete(t.leases, lease)
	return keys
}

// State is the content of a tree, for a snapshot on disk.
type State struct {
	Revision dcs.Revision
	Entries  []dcs.Entry // sorted by key
	Leases   []dcs.LeaseID
}

// Dump returns the tree's state. Values are shared with the tree. It costs one pass over
// the keys.
func (t *Tree) Dump() State {
	t.mu.RLock()
	defer t.mu.RUnlock()
	s := State{Revision: t.rev, Entries: make([]dcs.Entry, 0, t.entries.Len())}
	it := t.entries.Root().Iterator()
	for _, e, ok := it.Next(); ok; _, e, ok = it.Next() {
		s.Entries = append(s.Entries, *e)
	}
	for id := range t.leases {
		s.Leases = append(s.Leases, id)
	}
	sort.Slice(s.Leases, func(i, j int) bool { return s.Leases[i] < s.Leases[j] })
	return s
}

// Load replaces the tree's content by s and wakes all waiters. If a key is bound to a lease
// that s does not list, Load returns an error and changes nothing, because such a key would
// never be removed.
func (t *Tree) Load(s State) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	leases := make(map[dcs.LeaseID]map[string]struct{}, len(s.Leases))
	for _, id := range s.Leases {
		leases[id] = map[string]struct{}{}
	}
	txn := iradix.New[*dcs.Entry]().Txn()
	for i := range s.Entries {
		e := s.Entries[i]
		txn.Insert([]byte(e.Key), &e)
		if e.Lease == "" {
			continue
		}
		bound, live := leases[e.Lease]
		if !live {
			return fmt.Errorf("key %q is bound to lease %q, which is not live", e.Key, e.Lease)
		}
		bound[e.Key] = struct{}{}
	}
	t.entries, t.leases, t.rev = txn.Commit(), leases, s.Revision
	t.forget()
	for prefix := range t.waiters {
		t.wake(prefix)
	}
	return nil
}
