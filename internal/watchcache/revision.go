package watchcache

import (
	"slices"
	"sync/atomic"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/kv"
	"github.com/holdfast-dcs/holdfast/internal/remote"
)

// MinRevision is the largest revision that a Snapshot of a Store has had. A Snapshot
// that begins later must not have a smaller one.
type MinRevision struct{ at atomic.Uint64 }

// Load returns the revision.
func (m *MinRevision) Load() dcs.Revision { return dcs.Revision(m.at.Load()) }

// Raise reports whether rev is not smaller, and makes it the minimum.
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

// Read calls read until the tree is not older than any that was returned before
// this call began. The tree may be older than one that another call has returned
// meanwhile: to ask for that would read again and again while others write.
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

// Snapshot implements a Backend's Snapshot. It reads as [MinRevision.Read] does. read also names the
// server that answered.
func (m *MinRevision) Snapshot(backend, prefix string, read func() (s dcs.Snapshot, at string, err error)) (dcs.Snapshot, error) {
	s, err := m.Read(func() (dcs.Snapshot, error) {
		s, at, err := read()
		if err != nil {
			return s, remote.WrapError(backend, "Snapshot", prefix, at, err)
		}
		return s, nil
	})
	if err != nil {
		return s, err
	}
	return Visible(prefix, s), nil
}

// Visible leaves the bookkeeping out of what was read under prefix.
func Visible(prefix string, s dcs.Snapshot) dcs.Snapshot {
	if prefix == "" {
		s.Entries = slices.DeleteFunc(s.Entries, func(e dcs.Entry) bool { return kv.Hidden(e.Key) })
	}
	return s
}
