package dcs

import "sort"

// Change is one difference between two Snapshots. At least one of its entries is
// set.
type Change struct {
	// Old is the entry in the older Snapshot, or nil for a key that was absent.
	Old *Entry
	// New is the entry in the newer Snapshot, or nil for a key that is absent. If
	// Old is set and has another Created, the key was deleted in between.
	New *Entry
}

// Key returns the key that changed.
func (c Change) Key() string {
	if c.New != nil {
		return c.New.Key
	}
	return c.Old.Key
}

// Diff returns the changes from older to s, sorted by key. Both must be
// Snapshots of the same keys of one Store. A key that was rewritten with the
// value that it had is a change too. The entries are those of the Snapshots and
// are read-only.
//
// Diff compares one revision for each entry of s, and keys only near a change,
// so that a watcher of thousands of keys finds the few that changed at little
// cost.
func (s Snapshot) Diff(older Snapshot) []Change {
	if s.Revision < older.Revision {
		out := older.Diff(s)
		for i, c := range out {
			out[i] = Change{Old: c.New, New: c.Old}
		}
		return out
	}
	var out []Change
	old, cur := older.Entries, s.Entries
	for len(cur) > 0 {
		same := 0
		for same < len(cur) && cur[same].Modified <= older.Revision {
			same++
		}
		out, old = skipSame(out, old, cur[:same])
		if cur = cur[same:]; len(cur) == 0 {
			break
		}
		for len(old) > 0 && old[0].Key < cur[0].Key {
			out, old = append(out, Change{Old: &old[0]}), old[1:]
		}
		c := Change{New: &cur[0]}
		if len(old) > 0 && old[0].Key == cur[0].Key {
			c.Old, old = &old[0], old[1:]
		}
		out, cur = append(out, c), cur[1:]
	}
	for i := range old {
		out = append(out, Change{Old: &old[i]})
	}
	return out
}

// skipSame removes the unchanged entries from old and appends to out a change for
// each entry of old between them, which was deleted. All of same are in old, so
// from the first deletion on the positions of equal keys differ.
func skipSame(out []Change, old, same []Entry) ([]Change, []Entry) {
	for len(same) > 0 {
		n := sort.Search(min(len(same), len(old)), func(i int) bool { return same[i].Key != old[i].Key })
		if same, old = same[n:], old[n:]; len(same) == 0 || len(old) == 0 {
			break
		}
		out, old = append(out, Change{Old: &old[0]}), old[1:]
	}
	return out, old
}
