package zookeeper

import (
	"cmp"
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/backoff"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
	"github.com/holdfast-dcs/holdfast/internal/expiry"
)

// lease is a ZooKeeper session that is used for nothing else.
type lease struct {
	b   *Backend
	s   *session
	id  dcs.LeaseID
	ttl time.Duration

	mu        sync.Mutex
	from      dcs.Instant  // from when the TTL is proven to count
	lastRenew dcs.Instant  // when a Renew last began or ended
	on        *trackedConn // the connection on which writes were answered
	writes    []answered   // on that connection, the oldest first
	wake      chan struct{}

	renewing int  // Renews under way
	ending   bool // the session is being ended, because there were no Renews
}

// answered is a write to the quorum that was answered on the lease's
// connection.
type answered struct{ sent, at dcs.Instant }

// Grant implements [dcs.Backend]. ZooKeeper chooses the session's number, so
// that a Grant with an unknown outcome may leave a session that expires by
// itself.
func (b *Backend) Grant(ctx context.Context, ttl time.Duration) (dcs.Lease, dcs.Renewal, error) {
	if err := b.learn(ctx); err != nil {
		return nil, dcs.Renewal{}, backend.WrapGrantError(backendName, "", true, err)
	}
	a, err := b.granted(ctx, ttl, sessionOptions{quiet: true})
	if err != nil {
		return nil, dcs.Renewal{}, backend.WrapGrantError(backendName, a.Endpoint, a.Clear, err)
	}
	l := a.Value
	if a.First.Before(l.from) {
		l.from = a.First // P1: from when the first copy was sent
	}
	b.bg.run(l.keep)
	return l, l.renewal(), nil
}

// granted makes a session, and tries the servers one after the other. If
// several were made, it returns the first and lets the others expire.
func (b *Backend) granted(ctx context.Context, ttl time.Duration, o sessionOptions) (endpoint.Answer[*lease], error) {
	if err := b.makeIdentity(ctx); err != nil {
		return endpoint.Answer[*lease]{Clear: true}, err
	}
	var mu sync.Mutex
	var all []*lease
	over := false
	a, err := do(ctx, b, endpoint.Write, func(ctx context.Context, addr string) (*lease, error) {
		l, err := b.grant(ctx, addr, ttl, o)
		if err != nil {
			return nil, err
		}
		mu.Lock()
		defer mu.Unlock()
		if all = append(all, l); over {
			l.s.end(errAbandoned)
		}
		return l, nil
	})
	mu.Lock()
	defer mu.Unlock()
	over = true
	for _, l := range all {
		if err != nil || l != a.Value {
			l.s.end(errAbandoned)
		}
	}
	return a, err
}

// grant makes a session at one server. The session counts only after a write in
// it was answered. A server that has not heard of the session yet is then
// behind the revisions that were seen in it, and refuses the session instead of
// reporting it as over.
func (b *Backend) grant(ctx context.Context, addr string, ttl time.Duration, o sessionOptions) (*lease, error) {
	lim := b.limits()
	o.ttl = min(max(ttl, lim.MinTTL), lim.MaxTTL)
	l := &lease{b: b, wake: make(chan struct{}, 1)}
	o.over = func() { b.retire(l.ID()) }
	s, err := b.newSession(o)
	if err != nil {
		return nil, err
	}
	began := dcs.Now()
	_, w, err := call(ctx, s, addr, request{op: "Grant"}, askQuorum)
	if err != nil {
		s.end(errAbandoned) // it holds nothing, and expires by itself
		return nil, err
	}
	sent, g := w.grant()
	l.mu.Lock()
	l.s, l.id, l.ttl, l.from, l.lastRenew = s, leaseID(g.id), g.timeout, sent, dcs.Now()
	l.mu.Unlock()
	l.wrote(w, began)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.life.Err() != nil {
		s.end(dcs.ErrClosed)
		return nil, context.Cause(b.life)
	}
	b.leases[l.id] = l
	return l, nil
}

// retire forgets a lease that is over, except for its ID.
func (b *Backend) retire(id dcs.LeaseID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.leases[id]; ok {
		delete(b.leases, id)
		b.retired.Note(string(id), true)
	}
}

var errAbandoned = errors.New("the session was abandoned")

// wrote records a write to the quorum that was answered, and the renewals that
// it proves (P2). The request for the session on this connection was one: the
// server granted it after the leader had renewed the session. An earlier write
// was one if more than a tick lies between the answer to it and the sending of
// this one on the same connection. In between the server has reported the
// session to the leader.
func (l *lease) wrote(w *trackedConn, sent dcs.Instant) {
	now := dcs.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	live := l.s.on(w)
	if l.on != w || !live {
		l.on, l.writes = w, nil
	}
	requested, g := w.grant()
	l.ttl = min(l.ttl, g.timeout) // P3: this server may keep the session for less time than the one before it
	if live && l.from.Before(requested) {
		l.from, l.ttl = requested, g.timeout
	}
	tick := l.b.limits().tick
	keep := 0
	for i, e := range l.writes {
		if !e.at.Add(tick).Before(sent) {
			break
		}
		keep = i
		if l.from.Before(e.sent) {
			l.from, l.ttl = e.sent, g.timeout
		}
	}
	l.writes = append(slices.Clone(l.writes[keep:]), answered{sent, now})
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// confirmed makes a write to the quorum in the lease's session, and reads keys
// behind it.
func (l *lease) confirmed(ctx context.Context, addr string, keys []string) ([]dcs.Entry, error) {
	sent := dcs.Now()
	entries, w, err := call(ctx, l.s, addr, request{"Renew", keys}, func(c *zk.Conn) ([]dcs.Entry, error) {
		return proven(l.s, c, func() ([]dcs.Entry, error) { return l.b.readEntries(c, keys) })
	})
	if err != nil {
		return nil, l.lost(err)
	}
	l.wrote(w, sent)
	return entries, nil
}

// readEntries reads the entries of keys.
func (b *Backend) readEntries(c *zk.Conn, keys []string) ([]dcs.Entry, error) {
	nodes, err := readAll(c, b.paths(keys))
	return entriesOf(keys, nodes), err
}

func (b *Backend) paths(keys []string) []string {
	paths := make([]string, len(keys))
	for i, k := range keys {
		paths[i] = b.path(k)
	}
	return paths
}

// entriesOf returns the entries of keys from their nodes.
func entriesOf(keys []string, nodes []node) []dcs.Entry {
	var out []dcs.Entry
	for i, n := range nodes {
		if n.entry() {
			out = append(out, n.of(keys[i]))
		}
	}
	return out
}

// lost returns ErrLost if the session is over, ErrClosed if it was closed, and
// err otherwise.
func (l *lease) lost(err error) error {
	over := l.s.ended()
	switch {
	case errors.Is(over, errExpired):
		return &backend.Failure{Kind: dcs.ErrLost, Err: errExpired}
	case errors.Is(over, dcs.ErrClosed):
		return dcs.ErrClosed
	}
	return err
}

// keep writes again as soon as a tick has passed since the last write was
// answered, so that the proven renewal never lags (P2). It does so only for a
// while after a renewal, and only while the session is connected, because
// nothing but renewals may keep a lease.
func (l *lease) keep() {
	for l.s.ended() == nil && l.b.life.Err() == nil {
		pause, due := l.due()
		if !due {
			after, ending := l.expire()
			if ending {
				l.bury()
				return
			}
			l.rest(after)
			continue
		}
		if pause > 0 {
			backoff.Sleep(l.b.life, pause)
			continue
		}
		if l.b.pool.IsThrottled() {
			l.rest(l.b.limits().tick) // the writes that were answered still prove a renewal
			continue
		}
		addr := l.s.connected()
		if addr == "" {
			l.idle()
			continue
		}
		ctx, cancel := context.WithTimeout(l.b.life, l.b.c.Timing.RetryTimeout/2)
		_, err := l.confirmed(ctx, addr, nil)
		cancel()
		if err != nil {
			l.idle()
		}
	}
}

// rest waits for d, for the answer to a write, or for the session's end.
func (l *lease) rest(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-l.wake:
	case <-l.s.done:
	case <-t.C:
	}
}

// due returns how long keep must wait before its next write, and whether there
// is to be one.
func (l *lease) due() (time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.writes) == 0 || l.lastRenew.Elapsed() > l.grace() {
		return 0, false
	}
	last := l.writes[len(l.writes)-1]
	return l.b.limits().tick + onceMore - last.at.Elapsed(), true
}

// onceMore is added to a tick, so that more than a tick passes.
const onceMore = time.Millisecond

// idle stops keep until the next write is answered.
func (l *lease) idle() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.writes = nil
}

// grace returns for how long keep writes after a renewal.
func (l *lease) grace() time.Duration { return expiry.ZooKeeperGrace(l.ttl, l.b.limits().tick) }

// renewal returns the proven renewal.
func (l *lease) renewal() dcs.Renewal {
	l.mu.Lock()
	defer l.mu.Unlock()
	return dcs.Renewal{From: l.from, TTL: l.ttl, Expiry: expiry.ZooKeeper(l.ttl, l.b.limits().tick)}
}

// ID implements [dcs.Lease].
func (l *lease) ID() dcs.LeaseID {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.id
}

// Renew implements [dcs.Lease].
func (l *lease) Renew(ctx context.Context, keys ...string) (dcs.Renewal, error) {
	if err := l.begin(); err != nil {
		return dcs.Renewal{}, backend.WrapError(backendName, "Renew", "", "", err)
	}
	defer l.finish()
	keys = backend.Unique(keys)
	with := keys
	if len(keys) > fewNodes {
		// Not in the lease's session, which an older server would end.
		with = nil
	}
	a, err := doAt(ctx, l.b, endpoint.Renew, l.s.where, func(ctx context.Context, addr string) ([]dcs.Entry, error) {
		return l.confirmed(ctx, addr, with)
	})
	at, r := a.Endpoint, l.renewal()
	r.Entries = a.Value
	if err == nil && len(with) < len(keys) {
		r.Entries, at, err = l.b.readMany(ctx, "Renew", keys)
	}
	if err != nil {
		return dcs.Renewal{}, backend.WrapError(backendName, "Renew", "", at, err)
	}
	slices.SortFunc(r.Entries, func(a, b dcs.Entry) int { return cmp.Compare(a.Key, b.Key) })
	return r, nil
}

// Revoke implements [dcs.Lease]. It resumes the session on a separate
// connection, because the library can close a session only where that is
// connected, and only once, and does not report whether it did.
func (l *lease) Revoke(ctx context.Context) error {
	if errors.Is(l.s.ended(), errExpired) {
		return nil
	}
	a, err := do(ctx, l.b, endpoint.Write, func(ctx context.Context, addr string) (struct{}, error) {
		g, seen := l.s.identity()
		err := l.b.revoke(ctx, addr, g, seen)
		if errors.Is(err, errConnections) {
			l.s.disconnect() // the next attempt gets its place
		}
		return struct{}{}, err
	})
	if err != nil {
		return backend.WrapError(backendName, "Revoke", "", a.Endpoint, err)
	}
	l.s.end(errExpired)
	return nil
}

// revoke ends a session at one server.
func (b *Backend) revoke(ctx context.Context, addr string, g granted, seen dcs.Revision) error {
	if err := b.admitted(ctx, nil, addr); err != nil {
		return err
	}
	return b.hooks.intercept(ctx, request{op: "Revoke"}, nil, func(*zk.Conn) error {
		return b.aside(ctx, addr, func(c net.Conn) error {
			now, err := ask(c, g, int64(seen))
			if err != nil || now.refused {
				return err
			}
			return endSession(c)
		})
	})
}
