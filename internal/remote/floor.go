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

// Visible leaves the bookkeeping out of what was read under prefix.
func Visible(prefix string, s dcs.Snapshot) dcs.Snapshot {
	if prefix == "" {
		s.Entries = slices.DeleteFunc(s.Entries, func(e dcs.Entry) bool { return kv.Hidden(e.Key) })
	}
	return s
}
