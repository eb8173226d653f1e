package zookeeper

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/go-zookeeper/zk"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/attempt"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
)

// Commit implements [dcs.Backend].
func (b *Backend) Commit(ctx context.Context, t dcs.Txn) (dcs.Revision, error) {
	return b.commits.Commit(ctx, t)
}

// Settle implements [dcs.Settler].
func (b *Backend) Settle(ctx context.Context, e *dcs.Error) (dcs.Revision, error) {
	return b.commits.Settle(ctx, e)
}

// transport sends the requests of the attempt machinery.
type transport struct{ b *Backend }

// Read implements [attempt.Transport].
func (t transport) Read(ctx context.Context, keys ...string) ([]dcs.Entry, error) {
	a, err := do(ctx, t.b, endpoint.Read, func(ctx context.Context, addr string) ([]dcs.Entry, error) {
		s, err := t.b.link(addr)
		if err != nil {
			return nil, err
		}
		return t.b.look(ctx, s, addr, request{"Read", keys}, true)
	})
	return a.Value, err
}

// Recall implements [attempt.Recaller].
func (t transport) Recall(key string) (dcs.Entry, bool) {
	s, ok := t.b.known.Of(key)
	return dcs.Entry{Key: key, Created: s.created, Modified: s.modified, Lease: s.lease}, ok && s.entry
}

// Send implements [attempt.Transport]: one Multi in one session at one server.
func (t transport) Send(ctx context.Context, r attempt.Request) (attempt.Answer, error) {
	b := t.b
	at := func(lease dcs.LeaseID) string {
		if l := b.lease(owner(r, lease)); l != nil {
			return l.s.where()
		}
		return ""
	}
	return backend.Send(ctx, b.pool, &b.ident, &b.markers, r, at, func(ctx context.Context, addr string, lease dcs.LeaseID) (attempt.Answer, error) {
		return b.send(ctx, addr, r, lease)
	})
}

// owner returns the lease in whose session r must be sent, because an ephemeral
// node belongs to the session that makes it. Empty means that any session will
// do.
func owner(r attempt.Request, marker dcs.LeaseID) dcs.LeaseID {
	if r.Marker.Create {
		return marker
	}
	for _, w := range r.Txn.Then {
		if w.Lease != "" {
			return w.Lease
		}
	}
	return ""
}

// sessionOf returns the session of a lease, or the session for calls if id is
// empty.
func (b *Backend) sessionOf(addr string, id dcs.LeaseID) (*session, error) {
	if id == "" {
		return b.link(addr)
	}
	if l := b.lease(id); l != nil {
		return l.s, nil
	}
	if over, _ := b.retired.Of(string(id)); over {
		return nil, errExpired
	}
	return nil, &backend.Failure{Endpoint: addr, Kind: dcs.ErrInvalid, Refused: true, Err: fmt.Errorf("lease %s was not granted by this Store: ZooKeeper accepts a key bound to a session only from that session; use a lease that this Store granted", id)}
}

func (b *Backend) send(ctx context.Context, addr string, r attempt.Request, lease dcs.LeaseID) (attempt.Answer, error) {
	a := attempt.Answer{Endpoint: addr}
	id := owner(r, lease)
	s, err := b.sessionOf(addr, id)
	if err != nil {
		return b.over(a, id, err)
	}
	p, before := newPlan(b, r, lease), b.newest()
	if entries, err := p.prepare(ctx, s, addr); err != nil {
		return b.unsent(a, s, id, err)
	} else if entries != nil {
		a.Outcome, a.Seen, a.Entries = attempt.Refused, true, entries
		return a, nil
	}
	p.build()
	type answer struct {
		results []zk.MultiResponse
		refusal error
		seen    seen
	}
	got, w, err := call(ctx, s, addr, p.request(), func(c *zk.Conn) (answer, error) {
		results, err := multi(c, p.ops...)
		refusal := refusalOf(results, err)
		if refusal == nil {
			return answer{results: results}, err
		}
		if errors.Is(refusal, zk.ErrNoNode) {
			b.made.Clear() // another client may have deleted a parent
		}
		// The quorum answered. A later read on the same connection is not
		// older than that.
		got, err := b.states(c, p.keys)
		if err != nil {
			err = &afterwards{err}
		}
		return answer{refusal: refusal, seen: got}, err
	})
	switch {
	case err != nil:
		return b.unsent(a, s, id, err)
	case got.refusal == nil:
		a.Outcome, a.Revision = attempt.Applied, p.learn(got.results)
		b.copy.Saw(a.Revision)
		return a, b.ident.Follows(addr, before, a.Revision)
	case !s.on(w):
		return a, &backend.Failure{Endpoint: addr, Err: errBroken, Refused: true}
	}
	if err := b.forbidden(addr, got.refusal, got.seen); err != nil {
		return a, err
	}
	a.Outcome, a.Seen, a.Entries = attempt.Refused, true, b.noted(got.seen)
	return a, nil
}

// afterwards is the failure of a read that follows a refusal.
type afterwards struct{ error }

func (e *afterwards) Unwrap() error { return e.error }

// unsent classifies an error of a transaction.
func (b *Backend) unsent(a attempt.Answer, s *session, id dcs.LeaseID, err error) (attempt.Answer, error) {
	var late *afterwards
	if id != "" && errors.Is(s.ended(), errExpired) && (errors.Is(err, attempt.ErrNotSent) || errors.Is(err, errExpired)) {
		return b.over(a, id, errExpired)
	}
	if errors.As(err, &late) {
		return a, backend.NotSent(err)
	}
	return a, err
}

// over returns the answer to a transaction in a session that is over, in which
// nothing was written (P14).
func (b *Backend) over(a attempt.Answer, id dcs.LeaseID, err error) (attempt.Answer, error) {
	if !errors.Is(err, errExpired) {
		return a, err
	}
	if b.markers.Lost(id) {
		return a, &backend.Failure{Endpoint: a.Endpoint, Err: err, Refused: true}
	}
	a.Outcome = attempt.LeaseLost
	return a, nil
}

// forbidden returns the failure of a transaction that ZooKeeper or the contract
// forbids, and nil for a condition that failed. after was read after the
// refusal.
func (b *Backend) forbidden(addr string, refusal error, after seen) error {
	switch {
	case errors.Is(refusal, zk.ErrNoAuth), errors.Is(refusal, zk.ErrInvalidACL):
		return &backend.Failure{Endpoint: addr, Kind: dcs.ErrUnauthorized, Err: b.needs(refusal), Refused: true}
	case errors.Is(refusal, zk.ErrNotEmpty):
		return &backend.Failure{Endpoint: addr, Kind: dcs.ErrInvalid, Err: errors.New("cannot write the key: there are keys below it; use a sibling"), Refused: true}
	case errors.Is(refusal, zk.ErrNoChildrenForEphemerals):
		return &backend.Failure{Endpoint: addr, Kind: dcs.ErrInvalid, Err: errors.New("cannot write the key: a key above it is bound to a lease; use a sibling"), Refused: true}
	case errors.Is(refusal, zk.ErrNodeExists) && after.above != "":
		return &backend.Failure{Endpoint: addr, Kind: dcs.ErrInvalid, Err: fmt.Errorf("cannot write below key %q: a key never has keys below it; use a sibling", after.above), Refused: true}
	case !refusing(refusal): // a quota, for example
		return &backend.Failure{Endpoint: addr, Kind: dcs.ErrUnavailable, Err: refusal, Refused: true}
	}
	return nil
}

// refusalOf returns the reason for which a Multi was refused: the error of the
// first operation that has one, or else that of the whole. It returns nil if
// the Multi was not refused, or if that is unknown.
func refusalOf(results []zk.MultiResponse, err error) error {
	for _, r := range results {
		if r.Error != nil {
			return r.Error
		}
	}
	if refusing(err) {
		return err
	}
	return nil
}

func refusing(err error) bool {
	for _, known := range []error{zk.ErrNoNode, zk.ErrNodeExists, zk.ErrBadVersion, zk.ErrNotEmpty, zk.ErrNoChildrenForEphemerals, zk.ErrNoAuth, zk.ErrInvalidACL} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

// look reads the nodes of r's keys in one session at one server, and caches
// their states. If confirmed is set, it reads behind a barrier, so that the
// states are those of the quorum.
func (b *Backend) look(ctx context.Context, s *session, addr string, r request, confirmed bool) ([]dcs.Entry, error) {
	got, _, err := call(ctx, s, addr, r, func(c *zk.Conn) (seen, error) {
		if !confirmed {
			return b.states(c, r.keys)
		}
		return proven(s, c, func() (seen, error) { return b.states(c, r.keys) })
	})
	if err != nil {
		return nil, err
	}
	return b.noted(got), nil
}

// seen holds the nodes that were read for keys, and those around them.
type seen struct {
	keys   []string
	nodes  []node
	epochs map[string]int32 // versions, by path
	there  map[string]bool  // parents and epoch nodes, by path
	above  string           // a key above one of keys
}

// states reads the nodes of keys. Before them it reads their epochs and whether
// their parents exist.
func (b *Backend) states(c *zk.Conn, keys []string) (seen, error) {
	got := seen{keys: backend.Unique(keys), epochs: map[string]int32{}, there: map[string]bool{}}
	var around, paths []string
	for _, k := range got.keys {
		paths = append(paths, b.path(k))
		around = append(around, b.epochOf(k))
		around = append(around, b.made.missing(slices.Concat(parents(b.path(k)), parents(b.epochOf(k))))...)
	}
	around = backend.Unique(around)
	nodes, err := readAll(c, around)
	if err != nil {
		return seen{}, err
	}
	for i, n := range nodes {
		got.epochs[around[i]], got.there[around[i]] = n.stat.Version, n.there
		// A node with an empty value may be a directory that another program
		// made and has not used yet.
		if key, ok := b.keyOf(around[i]); ok && n.entry() && len(n.value) > 0 {
			// It must not be cached as a parent: making it is refused while
			// the key exists.
			got.there[around[i]], got.above = false, key
		}
	}
	got.nodes, err = readAll(c, paths)
	return got, err
}

// noted caches the states that were read, and returns the entries.
func (b *Backend) noted(got seen) []dcs.Entry {
	for path, there := range got.there {
		b.made.Note(path, there)
	}
	entries := []dcs.Entry{} // not nil, because the keys were read
	for i, n := range got.nodes {
		key := got.keys[i]
		b.known.Note(key, n.state(got.epochs[b.epochOf(key)]))
		if n.entry() {
			entries = append(entries, n.of(key))
		}
	}
	return entries
}
