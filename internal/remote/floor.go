package remote

import (
	"slices"
	"sync/atomic"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/kv"
)

// Floor is the largest revision that a Snapshot of a Store has had: no later
// one may have a smaller one.
type Floor struct{ at atomic.Uint64 }

// At is the floor.
func (f *Floor) At() dcs.Revision { return dcs.Revision(f.at.Load()) }

// Raise reports whether rev is not below the floor, and makes it the floor.
func (f *Floor) Raise(rev dcs.Revision) bool {
	for {
		floor := f.at.Load()
		if uint64(rev) < floor {
			return false
		}
		if f.at.CompareAndSwap(floor, uint64(rev)) {
			return true
		}
	}
}

// Snapshot is a Backend's: it reads, again where what was read is older than
// what the Store has returned. read also names the server that answered.
func (f *Floor) Snapshot(backend, prefix string, read func() (s dcs.Snapshot, at string, err error)) (dcs.Snapshot, error) {
	for {
		s, at, err := read()
		if err != nil {
			return dcs.Snapshot{}, Kinded(backend, "Snapshot", prefix, at, err)
		}
		if f.Raise(s.Revision) {
			return Visible(prefix, s), nil
		}
	}
}

// Visible leaves the bookkeeping out of what was read under prefix.
func Visible(prefix string, s dcs.Snapshot) dcs.Snapshot {
	if prefix == "" {
		s.Entries = slices.DeleteFunc(s.Entries, func(e dcs.Entry) bool { return kv.Hidden(e.Key) })
	}
	return s
}
