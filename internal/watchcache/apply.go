package watchcache

import (
	"errors"
	"fmt"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// ErrBehind reports that a server's view of the tree is older than the Cache.
var ErrBehind = errors.New("the server's view of the tree lags behind the store")

// Take makes the Tree equal to the whole tree that was read at rev, sorted and
// without bookkeeping, and records that the store serves. It fails like
// [Cache.Apply].
func (c *Cache) Take(rev dcs.Revision, entries []dcs.Entry) error {
	if err := c.take(rev, entries); err != nil {
		return err
	}
	c.Alive()
	return nil
}

// Apply applies the changes of the tree up to rev, and records that the store serves.
// It returns [ErrBehind] if there are changes and rev is not later than the Tree's
// revision. The changes are then older than the Tree, or the store's revisions have
// fallen, and the Cache must not invent a revision for them.
func (c *Cache) Apply(rev dcs.Revision, wrote []dcs.Entry, deleted []string) error {
	if err := c.apply(rev, wrote, deleted); err != nil {
		return err
	}
	c.Alive()
	return nil
}

func (c *Cache) take(rev dcs.Revision, entries []dcs.Entry) error {
	if !c.isCopy() {
		c.begin(rev, entries)
		return nil
	}
	wrote, deleted := c.Changes(entries)
	return c.apply(rev, wrote, deleted)
}

func (c *Cache) apply(rev dcs.Revision, wrote []dcs.Entry, deleted []string) error {
	now := c.Tree.Revision()
	switch {
	case len(wrote)+len(deleted) == 0:
		c.Tree.Advance(rev)
	case rev <= now:
		return fmt.Errorf("%w: changes at revision %d, but the copy is at revision %d already", ErrBehind, rev, now)
	default:
		c.Tree.Follow(rev, wrote, deleted)
	}
	return nil
}

// Changes returns the differences between the Tree and entries, which are the
// whole tree, sorted by key.
func (c *Cache) Changes(entries []dcs.Entry) (wrote []dcs.Entry, deleted []string) {
	before := c.Tree.Snapshot("").Entries
	for _, e := range entries {
		for len(before) > 0 && before[0].Key < e.Key {
			deleted = append(deleted, before[0].Key)
			before = before[1:]
		}
		same := len(before) > 0 && before[0].Key == e.Key
		if !same || before[0].Modified != e.Modified {
			wrote = append(wrote, e)
		}
		if same {
			before = before[1:]
		}
	}
	for _, e := range before {
		deleted = append(deleted, e.Key)
	}
	return wrote, deleted
}
