package memstore

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/kv"
)

// Server is a store in memory that any number of clients share. It keeps what
// a foreign store keeps: the tree, the leases with their timers, and one order
// of all changes. It has no goroutines; inside testing/synctest its timers
// follow the virtual time of the bubble that it was made in.
type Server struct {
	o Options

	mu      sync.Mutex
	roots   map[string]*root
	clients int           // opened so far, for their names
	leases  int           // granted so far, for stable listings
	limit   time.Duration // of TTLs, by LimitTTL; 0 is none
	faults  faults
	count   map[countKey]int

	// Told of every commit and of every lease that expires, under mu. For tests.
	onCommit func(r *root, t dcs.Txn, rev dcs.Revision)
	onExpire func(id dcs.LeaseID)
}

// root is one tree with its leases. The keys of users are below "d", those of
// bookkeeping below "b", so that a Wait on everything is not woken by markers.
type root struct {
	s      *Server
	tree   *kv.Tree
	leases map[dcs.LeaseID]*lease
}

// lease is a lease as the server sees it.
type lease struct {
	id     dcs.LeaseID
	order  int
	asked  time.Duration // by the client, for its TTL
	ttl    time.Duration // granted by the Grant or the renewal that came last
	until  dcs.Instant
	timer  *time.Timer
	paused bool // the server is down and lets no time pass
	over   bool // expired, its keys still there (NoSelfExpiry)

	extensions []*extension // that count: the lease ends with the last of them
	counted    dcs.Instant  // when the renewal was sent that the client counts on
}

// NewServer returns an empty store.
func NewServer(o Options) *Server {
	return &Server{o: o.withDefaults(), roots: map[string]*root{}, count: map[countKey]int{}, faults: newFaults()}
}

// New returns the only client of a new Server: a store for one process, or for
// a first try.
func New(o Options) *Backend { return NewServer(o).Open(ClientOptions{}) }

// root returns the tree of that name, made at its first use. Under s.mu.
func (s *Server) root(name string) *root {
	r, ok := s.roots[name]
	if !ok {
		r = &root{s: s, tree: kv.New(), leases: map[dcs.LeaseID]*lease{}}
		r.tree.Advance(1) // the empty tree: no Snapshot is at revision 0
		s.roots[name] = r
	}
	return r
}

// endpoints returns the names of the server's doors.
func (s *Server) endpoints() []string {
	names := make([]string, s.o.Endpoints)
	for i := range names {
		names[i] = fmt.Sprintf("m%d", i+1)
	}
	return names
}

// inside turns a key of the contract into a key of the tree.
func inside(key string) string {
	switch {
	case key == "":
		return "d"
	case kv.Hidden(key):
		return "b/" + key
	default:
		return "d/" + key
	}
}

func outside(e dcs.Entry) dcs.Entry {
	e.Key = e.Key[2:]
	return e
}

func (r *root) next() dcs.Revision { return r.tree.Revision() + 1 }

func (r *root) get(key string) (dcs.Entry, bool) {
	e, ok := r.tree.Get(inside(key))
	if ok {
		e = outside(e)
	}
	return e, ok
}

// entries returns those of keys that exist, sorted by key when keys are.
func (r *root) entries(keys []string) []dcs.Entry {
	var out []dcs.Entry
	for _, k := range keys {
		if e, ok := r.get(k); ok {
			out = append(out, e)
		}
	}
	return out
}

func (r *root) snapshot(prefix string) dcs.Snapshot {
	snap := r.tree.Snapshot(inside(prefix))
	for i := range snap.Entries {
		snap.Entries[i] = outside(snap.Entries[i])
	}
	return snap
}

func (r *root) commit(t dcs.Txn) (dcs.Revision, error) {
	rev := r.next()
	in := dcs.Txn{If: make([]dcs.Cond, len(t.If)), Then: make([]dcs.Write, len(t.Then))}
	for i, c := range t.If {
		c.Key = inside(c.Key)
		in.If[i] = c
	}
	for i, w := range t.Then {
		w.Key = inside(w.Key)
		if !w.Delete {
			// The caller may go on with its own, and readers may append to theirs.
			w.Value = slices.Clip(append([]byte{}, w.Value...))
			if l := r.leases[w.Lease]; l != nil && l.over {
				return 0, kv.ErrLease
			}
		}
		in.Then[i] = w
	}
	if err := r.tree.Commit(rev, in, kv.Options{Rebind: !r.s.o.NoRebind}); err != nil {
		return 0, err
	}
	if r.s.onCommit != nil {
		r.s.onCommit(r, t, rev)
	}
	return rev, nil
}

// grant makes lease id, or finds it: the client chose the id, so that a second
// copy of its request does not make a second lease.
func (r *root) grant(id dcs.LeaseID, ttl time.Duration) *lease {
	if l, ok := r.leases[id]; ok {
		return l
	}
	s := r.s
	s.leases++
	l := &lease{id: id, order: s.leases, asked: ttl, ttl: s.grantable(ttl)}
	r.leases[id] = l
	r.tree.Grant(id)
	life := s.o.expiry(l.ttl)
	l.timer = time.AfterFunc(life, func() { r.expire(l) })
	l.extend(life).answered = true // no renewal is sent before
	r.sweep()
	return l
}

// renew extends lease id; it returns nil if the lease is not live.
func (r *root) renew(id dcs.LeaseID) (*lease, *extension) {
	l, ok := r.leases[id]
	if !ok || l.over {
		return nil, nil
	}
	l.ttl = r.s.grantable(l.asked)
	x := l.extend(r.s.o.expiry(l.ttl))
	r.sweep()
	return l, x
}

// expire is the lease's timer.
func (r *root) expire(l *lease) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	// A renewal that came between the timer's firing and the lock counts.
	if r.leases[l.id] != l || l.paused || l.over || dcs.Now().Before(l.until) {
		return
	}
	l.over = true
	if r.s.onExpire != nil {
		r.s.onExpire(l.id)
	}
	if !r.s.o.NoSelfExpiry || r.hasLiveLease() {
		r.end(l.id)
	}
}

// attended reports whether a live lease is there, whose owner removes the keys
// of expired ones (NoSelfExpiry).
func (r *root) hasLiveLease() bool {
	for _, l := range r.leases {
		if !l.over {
			return true
		}
	}
	return false
}

// sweep removes what expired leases left.
func (r *root) sweep() {
	for id, l := range r.leases {
		if l.over {
			r.end(id)
		}
	}
}

// end removes lease id and every key bound to it.
func (r *root) end(id dcs.LeaseID) bool {
	l, ok := r.leases[id]
	if !ok {
		return false
	}
	l.timer.Stop()
	delete(r.leases, id)
	r.tree.EndLease(r.next(), id)
	return true
}

// sweep removes the markers of a client that closed, all that is below prefix.
func (s *Server) sweep(rootName, prefix string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.root(rootName)
	var t dcs.Txn
	for _, e := range r.tree.Snapshot(inside(prefix)).Entries {
		t.Then = append(t.Then, dcs.Delete(outside(e).Key))
	}
	if len(t.Then) > 0 {
		_, _ = r.commit(t) // deletions without a condition can not fail
	}
}

// checkRoot says what is wrong with the name of a root.
func checkRoot(root string) error {
	root = strings.TrimPrefix(root, "/")
	if root == "" {
		return fmt.Errorf("the root is missing: name one after the host, as in mem://name/root")
	}
	return dcs.CheckKey(root)
}
