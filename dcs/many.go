package dcs

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sort"
	"strings"
)

// SnapshotMany is [Store.Snapshot] of several prefixes at one moment. It returns
// each key once, sorted, also if one prefix lies below another. It reads the whole
// tree below the longest path that is common to all prefixes.
func (s *Store) SnapshotMany(ctx context.Context, prefixes ...string) (Snapshot, error) {
	m, err := s.many(opSnapshot, prefixes)
	if err != nil {
		return Snapshot{}, err
	}
	snap, err := s.Snapshot(ctx, m.parent)
	if err != nil {
		return Snapshot{}, err
	}
	return m.filter(snap), nil
}

// WaitMany is [Store.Wait] for several prefixes. It blocks until one of their keys
// differs from last, an earlier Snapshot of the same prefixes, and returns a newer
// Snapshot. [Snapshot.Diff] returns the differences. If last is the zero Snapshot,
// WaitMany returns at once. A key that was created and deleted in between may be
// missed.
//
// WaitMany costs one Wait below the longest path that is common to all prefixes, no
// matter how many they are. A change there of a key that no prefix covers is read
// and does not end WaitMany.
func (s *Store) WaitMany(ctx context.Context, last Snapshot, prefixes ...string) (Snapshot, error) {
	m, err := s.many(opWait, prefixes)
	if err != nil {
		return Snapshot{}, err
	}
	return s.waitMany(ctx, m, last)
}

func (s *Store) waitMany(ctx context.Context, m manyPrefixes, last Snapshot) (Snapshot, error) {
	for since := last.Revision; ; {
		snap, err := s.waitNewer(ctx, m.parent, since)
		if err != nil {
			return Snapshot{}, err
		}
		since = snap.Revision
		if snap = m.filter(snap); last.Revision == 0 || len(snap.Diff(last)) > 0 {
			return snap, nil
		}
	}
}

// WatchMany is [Store.Watch] for several prefixes. It yields the keys of all of them
// at one moment, and again whenever one of the keys differs.
func (s *Store) WatchMany(ctx context.Context, prefixes ...string) iter.Seq2[Snapshot, error] {
	return func(yield func(Snapshot, error) bool) {
		m, err := s.many(opWait, prefixes)
		if err != nil {
			yield(Snapshot{}, err)
			return
		}
		var last Snapshot
		s.watch(ctx, yield, func(first bool) (snap Snapshot, err error) {
			if first {
				snap, err = s.SnapshotMany(ctx, m.prefixes...)
			} else {
				snap, err = s.waitMany(ctx, m, last)
			}
			if err == nil {
				last = snap
			}
			return snap, err
		})
	}
}

// manyPrefixes are prefixes that one call reads together.
type manyPrefixes struct {
	parent   string   // lies above all of them, or is the only one
	prefixes []string // sorted; none lies below another
}

// many checks the prefixes of a call of o.
func (s *Store) many(o *op, prefixes []string) (manyPrefixes, error) {
	if len(prefixes) == 0 {
		return manyPrefixes{}, s.invalid(o, "", errors.New("no prefix is given: name at least one, the empty one is the whole tree"))
	}
	var m manyPrefixes
	for _, p := range slices.Sorted(slices.Values(prefixes)) {
		if err := checkPrefix(p); err != nil {
			return m, s.invalid(o, p, err)
		}
		covered := slices.ContainsFunc(m.prefixes, func(above string) bool { return Under(above, p) })
		if !covered {
			m.prefixes = append(m.prefixes, p)
		}
	}
	m.parent = m.prefixes[0]
	for _, p := range m.prefixes[1:] {
		for !Under(m.parent, p) {
			m.parent = parent(m.parent)
		}
	}
	return m, nil
}

// filter returns the part of snap that the prefixes cover.
func (m manyPrefixes) filter(snap Snapshot) Snapshot {
	if len(m.prefixes) == 1 {
		return snap
	}
	all := snap.Entries
	snap.Entries = nil
	from := func(key string) int {
		return sort.Search(len(all), func(i int) bool { return all[i].Key >= key })
	}
	for _, p := range m.prefixes {
		if i := from(p); i < len(all) && all[i].Key == p {
			snap.Entries = append(snap.Entries, all[i])
		}
		// The keys below p are consecutive, and '0' is the character after the slash.
		snap.Entries = append(snap.Entries, all[from(p+"/"):from(p+"0")]...)
	}
	byKey := func(a, b Entry) int { return strings.Compare(a.Key, b.Key) }
	if !slices.IsSortedFunc(snap.Entries, byKey) {
		slices.SortFunc(snap.Entries, byKey)
	}
	return snap
}

// waitNewer is Wait that also checks the revision of the backend's answer.
func (s *Store) waitNewer(ctx context.Context, prefix string, since Revision) (Snapshot, error) {
	snap, err := s.Wait(ctx, prefix, since)
	if err == nil && snap.Revision <= since {
		err = s.wrap(opWait, prefix, fmt.Errorf("the backend returned revision %d from a Wait since %d", snap.Revision, since), nil)
	}
	return snap, err
}
