package memstore

import (
	"sort"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// countKey identifies a counter of requests.
type countKey struct {
	client   string
	endpoint string
	op       Op
}

// Requests returns the number of calls with m's Op, Client and Endpoint that were sent
// so far, including copies and lost ones. The other fields of m are ignored.
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

// Down makes the server refuse every connection until Up, like a store without a
// quorum. Nothing is applied and no lease expires. Calls under way are lost.
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

// Up ends Down. Every lease then has its whole time again, unless Options.LeasesRunOn
// is set.
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

// ReadOnly makes the server refuse every write, including renewals. ReadOnly(false)
// ends that.
func (s *Server) ReadOnly(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.readOnly = on
	s.faults.change()
}

// LimitTTL makes the server grant a TTL of at most limit from now on, and renew every
// lease for at most that, even if it was granted for longer. ZooKeeper does so when a
// client reconnects to a server that allows shorter sessions. Zero removes the limit. A
// limit below Options.MinTTL counts as MinTTL, because Caps do not change.
//
// A lease has the shorter TTL, counted from the renewal, once its client has the
// answer. Until then, and if the answer is lost, it lives as long as the earlier answers
// have granted.
func (s *Server) LimitTTL(limit time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit = max(limit, 0)
}

// EndLease ends a lease early and removes its keys, as an operator can. It reports
// whether the lease existed.
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

// LeaseInfo describes one lease in the state of the server.
type LeaseInfo struct {
	ID   dcs.LeaseID
	Root string
	TTL  time.Duration
	// Left is the time until the server ends the lease. It is 0 for a lease that has
	// expired and was not removed (Options.NoSelfExpiry).
	Left time.Duration
	Keys []string // bound to it, sorted
}

// Leases returns the existing leases in the order in which they were granted.
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

// Entries returns all entries of a root, including bookkeeping keys (attempt markers),
// sorted by key.
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

// Delete removes a key, which may be a marker, without a client. It reports whether the
// key existed.
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

// Put writes a key without a client, bound to no lease.
func (s *Server) Put(rootName, key string, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.root(rootName).commit(dcs.Txn{Then: []dcs.Write{dcs.Put(key, value)}})
	return err
}

// FreezeWatch holds back the changes that the server pushes to the watches that m
// matches, and leaves their probes unanswered. Other calls go on. Each Wait ends with
// ErrUnavailable after its RetryTimeout, unless another endpoint is not frozen. m.Op is
// ignored.
func (s *Server) FreezeWatch(m Match) *Injection {
	m.Op = OpWatch
	return s.Inject(m, Hang())
}
