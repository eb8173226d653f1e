package kv

import (
	"github.com/holdfast-dcs/holdfast/dcs"
)

// Follow takes over what another tree has done up to rev: the entries that it
// wrote, as they are, and the keys that it deleted. It is for a copy of a tree
// that lives elsewhere; leases are that tree's matter. Changes that are older
// than the tree's position must have been left out.
func (t *Tree) Follow(rev dcs.Revision, wrote []dcs.Entry, deleted []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rev = max(t.rev, rev)
	txn := t.entries.Txn()
	for i := range wrote {
		txn.Insert([]byte(wrote[i].Key), &wrote[i])
	}
	for _, key := range deleted {
		txn.Delete([]byte(key))
	}
	t.entries = txn.Commit()
	for i := range wrote {
		t.touch(rev, wrote[i].Key)
	}
	for _, key := range deleted {
		t.touch(rev, key)
	}
}

// Become makes the tree a copy of one that lives elsewhere, at rev, and wakes
// everybody who waits.
func (t *Tree) Become(rev dcs.Revision, entries []dcs.Entry) {
	s := State{Revision: rev, Entries: entries}
	for _, e := range entries {
		if e.Lease != "" {
			s.Leases = append(s.Leases, e.Lease)
		}
	}
	_ = t.Load(s) // every lease is named
}
