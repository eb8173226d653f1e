package memstore

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/kvtree"
)

// Server is a store in memory that any number of clients share. Like a foreign store it
// holds the tree, the leases with their timers, and one order of all changes. It has no
// goroutines. Inside testing/synctest its timers follow the virtual time of the bubble in
// which it was created.
type Server struct {
	o     Options
	hooks hooks

	mu      sync.Mutex
	roots   map[string]*root
	clients int           // opened so far, for the names of clients
	leases  int           // granted so far, for stable listings
	limit   time.Duration // of TTLs, by LimitTTL; 0 is none
	faults  faults
	count   map[countKey]int
}

// root is one tree with its leases. The keys of users are below "d" and those of
// bookkeeping are below "b", so that markers do not wake a Wait on the whole tree.
type root struct {
	s      *Server
	tree   *kvtree.Tree
	leases map[dcs.LeaseID]*lease
}

// lease is a lease in the state of the server.
type lease struct {
	id     dcs.LeaseID
	order  int
	asked  time.Duration // the TTL that the client requested
	ttl    time.Duration // the TTL of the Grant or of the last renewal
	until  dcs.Instant
	timer  *time.Timer
	paused bool // the server is down and its time stands still
	over   bool // expired with its keys still present (NoSelfExpiry)

	extensions []*extension // those that count: the lease ends with the last of them
	counted    dcs.Instant  // the sending of the renewal on which the client relies
}

// NewServer returns an empty store.
func NewServer(o Options) *Server {
	return &Server{o: o.withDefaults(), hooks: noHooks(), roots: map[string]*root{}, count: map[countKey]int{}, faults: newFaults()}
}

// New returns the only client of a new Server. It is meant for a store within one
// process, and for trying the package.
func New(o Options) *Backend { return NewServer(o).Open(ClientOptions{}) }

// root returns the tree of that name and creates it at its first use. Called under s.mu.
func (s *Server) root(name string) *root {
	r, ok := s.roots[name]
	if !ok {
		r = &root{s: s, tree: kvtree.New(), leases: map[dcs.LeaseID]*lease{}}
		r.tree.Advance(1) // the empty tree: no Snapshot is at revision 0
		s.roots[name] = r
	}
	return r
}

// endpoints returns the names of the server's endpoints.
func (s *Server) endpoints() []string {
	names := make([]string, s.o.Endpoints)
	for i := range names {
		names[i] = fmt.Sprintf("m%d", i+1)
	}
	return names
}

// inside returns the key of the tree for a key of the contract.
func inside(key string) string {
	switch {
	case key == "":
		return "d"
	case kvtree.Hidden(key):
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

// entries returns the existing entries of keys, in the order of keys.
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
			// The caller may change its own value, and readers may append to theirs.
			w.Value = slices.Clip(append([]byte{}, w.Value...))
			if l := r.leases[w.Lease]; l != nil && l.over {
				return 0, kvtree.ErrLease
			}
		}
		in.Then[i] = w
	}
	if err := r.tree.Commit(rev, in, kvtree.Options{Rebind: !r.s.o.NoRebind}); err != nil {
		return 0, err
	}
	r.s.hooks.committed(r, t, rev)
	return rev, nil
}

// grant grants lease id, or returns it if it exists. The client chose the id, so that a
// second copy of its request does not grant a second lease.
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
	l.extend(life).answered = true // no renewal is sent before the Grant is answered
	r.sweep()
	return l
}

// renew extends lease id. It returns nil if the lease is not live.
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

// expire handles the timer of a lease.
func (r *root) expire(l *lease) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	// A renewal that came between the timer's firing and the lock counts.
	if r.leases[l.id] != l || l.paused || l.over || dcs.Now().Before(l.until) {
		return
	}
	l.over = true
	r.s.hooks.expired(l.id)
	if !r.s.o.NoSelfExpiry || r.hasLiveLease() {
		r.end(l.id)
	}
}

// hasLiveLease reports whether there is a live lease, whose owner removes the keys of
// expired leases (NoSelfExpiry).
func (r *root) hasLiveLease() bool {
	for _, l := range r.leases {
		if !l.over {
			return true
		}
	}
	return false
}

// sweep removes expired leases and their keys.
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

// sweep removes the markers of a closed client, which are all keys below prefix.
func (s *Server) sweep(rootName, prefix string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.root(rootName)
	var t dcs.Txn
	for _, e := range r.tree.Snapshot(inside(prefix)).Entries {
		t.Then = append(t.Then, dcs.Delete(outside(e).Key))
	}
	if len(t.Then) > 0 {
		_, _ = r.commit(t) // deletions without a condition cannot fail
	}
}

// checkRoot returns the fault in the name of a root, or nil.
func checkRoot(root string) error {
	root = strings.TrimPrefix(root, "/")
	if root == "" {
		return fmt.Errorf("the root is missing: name one after the host, as in mem://name/root")
	}
	return dcs.CheckKey(root)
}
