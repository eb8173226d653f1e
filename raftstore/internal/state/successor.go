package state

import (
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Successor returns a snapshot of f's state as the state that another incarnation
// of the cluster begins with, at an entry of that index and term. It must be
// called while nothing is applied.
//
// Keys keep their values and their revisions. Clients and leases of the
// earlier incarnation end:
//
//   - Its clients are forgotten, so that no command of theirs is applied any
//     more (P15). No client of the new incarnation gets an id of theirs, because
//     ids are indexes.
//   - Its leases get other names, so that no session can renew them. The keys stay
//     bound to them and end with them, a TTL after the first leader has
//     extended them (P21): until then a holder of the earlier incarnation may
//     believe that it holds its lock.
func (f *FSM) Successor(incarnation [16]byte, index, term uint64) (raft.FSMSnapshot, error) {
	if applied := f.Applied(); index <= applied {
		return nil, fmt.Errorf("the state is at entry %d and cannot begin again at entry %d", applied, index)
	}
	if err := f.Failed(); err != nil {
		return nil, err
	}
	s := &snapshot{
		level:       f.Level(),
		incarnation: incarnation,
		term:        term,
		tree:        f.tree.Dump(),
		ttls:        make(map[dcs.LeaseID]time.Duration, len(f.ttls)),
	}
	s.tree.Revision = dcs.Revision(index)
	names := make(map[dcs.LeaseID]dcs.LeaseID, len(s.tree.Leases))
	for i, old := range s.tree.Leases {
		// Zeros before the number keep the leases in order.
		name := dcs.LeaseID(fmt.Sprintf("inherited-%x-%08d", incarnation[:4], i))
		names[old], s.ttls[name] = name, f.ttls[old]
		s.tree.Leases[i] = name
	}
	for i := range s.tree.Entries {
		e := &s.tree.Entries[i]
		e.Lease = names[e.Lease]
	}
	return s, nil
}

// Summary returns how many keys and leases the state has, and the longest time to
// live of a lease. It must be called while nothing is applied.
func (f *FSM) Summary() (keys, leases int, longest time.Duration) {
	for _, ttl := range f.ttls {
		longest = max(longest, ttl)
	}
	return len(f.tree.Snapshot("").Entries), len(f.ttls), longest
}
