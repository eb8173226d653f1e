package filestore

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Step 1: the state machine. It is the whole content of the store and the rules by which
// it changes. It does no I/O and reads no clock, so that it is easy to test. A store with
// transactions of its own (SQL, etcd) brings this part along.

// state is the content of the file.
type state struct {
	// Boot names the boot of the machine to whose clock the deadlines of leases belong.
	Boot string
	// Revision rises with every change of a key. An empty store has revision 1, because
	// 0 means "absent" to every caller.
	Revision dcs.Revision
	// Deleted is the revision of the last deletion of a key that users see. A Wait needs
	// it, because a deleted key leaves no trace among the entries.
	Deleted dcs.Revision
	Entries map[string]dcs.Entry
	Leases  map[dcs.LeaseID]lease
}

// lease is a lease as the file has it.
type lease struct {
	TTL time.Duration
	// Deadline is a reading of the machine's clock (see clock).
	Deadline time.Duration
}

func newState() *state {
	return &state{Revision: 1, Entries: map[string]dcs.Entry{}, Leases: map[dcs.LeaseID]lease{}}
}

// clone returns a copy that may be changed.
func (s *state) clone() *state {
	c := *s
	c.Entries, c.Leases = maps.Clone(s.Entries), maps.Clone(s.Leases)
	return &c
}

// hidden reports whether key is bookkeeping. The grammar of keys leaves names that begin
// with a dot to backends. They must not appear in any answer.
func hidden(key string) bool { return strings.HasPrefix(key, ".") }

// entries returns the existing entries of keys, sorted and each once.
func (s *state) entries(keys []string) []dcs.Entry {
	var out []dcs.Entry
	for _, key := range slices.Compact(slices.Sorted(slices.Values(keys))) {
		if e, ok := s.Entries[key]; ok {
			out = append(out, e)
		}
	}
	return out
}

// snapshot returns the entry of prefix and every entry below it, sorted.
func (s *state) snapshot(prefix string) dcs.Snapshot {
	snap := dcs.Snapshot{Revision: s.Revision}
	for _, key := range slices.Sorted(maps.Keys(s.Entries)) {
		if !hidden(key) && dcs.Under(prefix, key) {
			snap.Entries = append(snap.Entries, s.Entries[key])
		}
	}
	return snap
}

var (
	errCondition = errors.New("a condition does not hold")
	errLease     = errors.New("the lease is not live")
)

// apply applies t as a whole, or not at all.
func (s *state) apply(t dcs.Txn) (dcs.Revision, error) {
	for _, c := range t.If {
		var found *dcs.Entry
		if e, ok := s.Entries[c.Key]; ok {
			found = &e
		}
		if !c.Holds(found) {
			return 0, errCondition
		}
	}
	for _, w := range t.Then {
		if _, live := s.Leases[w.Lease]; w.Lease != "" && !live {
			return 0, errLease // P14
		}
	}
	// One revision for all writes. It also rises if a value is written again unchanged.
	s.Revision++
	for _, w := range t.Then {
		if w.Delete {
			s.remove(w.Key)
			continue
		}
		e, exists := s.Entries[w.Key]
		if !exists {
			e = dcs.Entry{Key: w.Key, Created: s.Revision} // the fencing token of a lock
		}
		e.Value, e.Lease, e.Modified = w.Value, w.Lease, s.Revision
		s.Entries[w.Key] = e
	}
	return s.Revision, nil
}

// remove removes a key at the present revision.
func (s *state) remove(key string) {
	if _, exists := s.Entries[key]; exists && !hidden(key) {
		s.Deleted = s.Revision
	}
	delete(s.Entries, key)
}

// extend makes the lease live until ttl after now.
func (s *state) extend(id dcs.LeaseID, ttl, now time.Duration) {
	s.Leases[id] = lease{TTL: ttl, Deadline: now + ttl}
}

// end removes a lease and the keys that are bound to it.
func (s *state) end(id dcs.LeaseID) {
	delete(s.Leases, id)
	s.Revision++
	for key, e := range s.Entries {
		if e.Lease == id {
			s.remove(key)
		}
	}
}

// due reports whether advance would change s.
func (s *state) due(boot string, now time.Duration) bool {
	return s.Boot != boot && len(s.Leases) > 0 || s.nextDeadline() <= now
}

// advance ends the leases that have expired by now.
func (s *state) advance(boot string, now time.Duration) {
	if s.Boot != boot {
		// The machine was started again, and its clock with it. The deadlines of the last
		// boot mean nothing. A lease must never be shorter than promised, so that each
		// begins again with its whole TTL.
		s.Boot = boot
		for id, l := range s.Leases {
			s.extend(id, l.TTL, now)
		}
	}
	for id, l := range s.Leases {
		if l.Deadline <= now {
			s.end(id)
		}
	}
}

// nextDeadline returns the earliest deadline of a lease.
func (s *state) nextDeadline() time.Duration {
	next := time.Duration(1<<63 - 1)
	for _, l := range s.Leases {
		next = min(next, l.Deadline)
	}
	return next
}
