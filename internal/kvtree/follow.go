package kvtree

import (
	"github.com/holdfast-dcs/holdfast/dcs"
)

// Follow applies the changes of another tree up to rev: the entries that it wrote, as they
// are, and the keys that it deleted. It is meant for a copy of a tree at a server, which
// also keeps the leases. The caller must leave out changes that are older than the
// position of the copy.
func (t *Tree) Follow(rev dcs.Revision, wrote []dcs.Entry, deleted []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rev = max(t.rev, rev)
	txn := t.entries.Txn()
	for _, e := range wrote {
		txn.Insert([]byte(e.Key), &e) // a copy, because the address of an element would keep all of wrote
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

// CopyFrom replaces the content of the tree by entries at rev, the content of a tree at a
// server, and wakes all waiters.
func (t *Tree) CopyFrom(rev dcs.Revision, entries []dcs.Entry) {
	s := State{Revision: rev, Entries: entries}
	for _, e := range entries {
		if e.Lease != "" {
			s.Leases = append(s.Leases, e.Lease)
		}
	}
	_ = t.Load(s) // s lists every lease, so Load cannot fail
}
