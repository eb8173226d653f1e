package memstore

import (
	"sort"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// countKey is what requests are counted by.
type countKey struct {
	client   string
	endpoint string
	op       Op
}

// Requests returns how many calls of m's Op, Client and Endpoint were sent so
// far, copies and lost ones included; m's other fields do not matter.
func (s *Server) Requests(m Match) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for k, v := range s.count {
		if (Match{Op: m.Op, Client: m.Client, Endpoint: m.Endpoint}).matches(Call{Op: k.op, Client: k.client, Endpoint: k.endpoint}) {
			n += v
		}
	}
	return n
}

// Down makes the server refuse every connection, like a store without a
// quorum: nothing is done, and no lease expires, until Up. What is under way
// is lost.
func (s *Server) Down() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.faults.down {
		return
	}
	s.faults.down = true
	s.faults.change()
	for _, r := range s.roots {
		for _, l := range r.leases {
			l.paused = true
			l.timer.Stop()
		}
	}
}

// Up ends Down. Every lease begins anew with its whole time, unless
// Options.LeasesRunOn says that time went on.
func (s *Server) Up() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.faults.down {
		return
	}
	s.faults.down = false
	s.faults.change()
	for _, r := range s.roots {
		for _, l := range r.leases {
			l.paused = false
			if !s.o.LeasesRunOn {
				l.restart()
			}
			l.schedule()
		}
	}
}

// ReadOnly makes the server refuse everything that writes, renewals included,
// or ends that.
func (s *Server) ReadOnly(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.readOnly = on
	s.faults.change()
}

// LimitTTL makes the server grant a TTL of at most limit from now on, and renew
// every lease for at most that, also one that was granted for longer. ZooKeeper
// does so when a client reconnects to a server that allows shorter sessions. Zero ends
// that. A limit below Options.MinTTL counts as MinTTL, because Caps do not
// change.
//
// A lease has the shorter life, counted from the renewal, once its client has
// been given the answer. Until then, and if the answer is lost, it lives as long
// as the answers before have granted.
func (s *Server) LimitTTL(limit time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit = max(limit, 0)
}

// EndLease ends a lease early, as an operator can, and removes its keys. It
// reports whether the lease was there.
func (s *Server) EndLease(id dcs.LeaseID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.roots {
		if r.end(id) {
			return true
		}
	}
	return false
}

// LeaseInfo is one lease as the server sees it.
type LeaseInfo struct {
	ID   dcs.LeaseID
	Root string
	TTL  time.Duration
	// Left is the time until the server ends it; 0 for one that expired and
	// was not swept (Options.NoSelfExpiry).
	Left time.Duration
	Keys []string // bound to it, sorted
}

// Leases returns the leases that are there, in the order of their granting.
func (s *Server) Leases() []LeaseInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	order := map[dcs.LeaseID]int{}
	var out []LeaseInfo
	for name, r := range s.roots {
		for id, l := range r.leases {
			keys := r.tree.Bound(id)
			for i := range keys {
				keys[i] = outside(dcs.Entry{Key: keys[i]}).Key
			}
			sort.Strings(keys)
			order[id] = l.order
			out = append(out, LeaseInfo{ID: id, Root: name, TTL: l.ttl, Left: max(l.until.Sub(dcs.Now()), 0), Keys: keys})
		}
	}
	sort.Slice(out, func(i, j int) bool { return order[out[i].ID] < order[out[j].ID] })
	return out
}

// Entries returns everything in a root, bookkeeping keys (attempt markers)
// included, sorted by key.
func (s *Server) Entries(rootName string) []dcs.Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	snap := s.root(rootName).tree.Snapshot("")
	for i := range snap.Entries {
		snap.Entries[i] = outside(snap.Entries[i])
	}
	sort.Slice(snap.Entries, func(i, j int) bool { return snap.Entries[i].Key < snap.Entries[j].Key })
	return snap.Entries
}

// Delete removes a key behind the clients' backs, a marker too. It reports
// whether it was there.
func (s *Server) Delete(rootName, key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.root(rootName)
	if _, ok := r.get(key); !ok {
		return false
	}
	_, err := r.commit(dcs.Txn{Then: []dcs.Write{dcs.Delete(key)}})
	return err == nil
}

// Put writes a key behind the clients' backs, bound to no lease.
func (s *Server) Put(rootName, key string, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.root(rootName).commit(dcs.Txn{Then: []dcs.Write{dcs.Put(key, value)}})
	return err
}

// FreezeWatch holds back what the server pushes to the watches that m matches,
// and leaves their probes unanswered; other calls go on. Waits end with
// ErrUnavailable when their RetryTimeout is over, unless another endpoint is
// not frozen. m.Op does not matter.
func (s *Server) FreezeWatch(m Match) *Injection {
	m.Op = OpWatch
	return s.Inject(m, Hang())
}
