package watchcache

import (
	"slices"
	"sync/atomic"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/kvtree"
)

// MinRevision is the largest revision of any Snapshot that a Store has returned. A
// Snapshot that starts later must not have a smaller one.
type MinRevision struct{ at atomic.Uint64 }

// Load returns the revision.
func (m *MinRevision) Load() dcs.Revision { return dcs.Revision(m.at.Load()) }

// Raise reports whether rev is not below the minimum, and if so makes it the minimum.
func (m *MinRevision) Raise(rev dcs.Revision) bool {
	for {
		floor := m.at.Load()
		if uint64(rev) < floor {
			return false
		}
		if m.at.CompareAndSwap(floor, uint64(rev)) {
			return true
		}
	}
}

// Read calls read until the tree is not older than any tree that was returned before
// this call started. It may be older than a tree that another call has returned in
// the meantime, because Read would otherwise never end under constant writes.
func (m *MinRevision) Read(read func() (dcs.Snapshot, error)) (dcs.Snapshot, error) {
	floor := m.Load()
	for {
		s, err := read()
		if err != nil {
			return dcs.Snapshot{}, err
		}
		m.Raise(s.Revision)
		if s.Revision >= floor {
			return s, nil
		}
	}
}

// Snapshot implements a Backend's Snapshot with [MinRevision.Read]. read also returns
// the server that answered.
func (m *MinRevision) Snapshot(name, prefix string, read func() (s dcs.Snapshot, at string, err error)) (dcs.Snapshot, error) {
	s, err := m.Read(func() (dcs.Snapshot, error) {
		s, at, err := read()
		if err != nil {
			return s, backend.WrapError(name, "Snapshot", prefix, at, err)
		}
		return s, nil
	})
	if err != nil {
		return s, err
	}
	return Visible(prefix, s), nil
}

// Visible removes the bookkeeping keys from s, which was read under prefix.
func Visible(prefix string, s dcs.Snapshot) dcs.Snapshot {
	if prefix == "" {
		s.Entries = slices.DeleteFunc(s.Entries, func(e dcs.Entry) bool { return kvtree.Hidden(e.Key) })
	}
	return s
}
