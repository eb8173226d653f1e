package consul

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
	"github.com/holdfast-dcs/holdfast/internal/expiry"
)

// lease is one of Consul's sessions.
type lease struct {
	b   *Backend
	id  string
	ttl time.Duration
}

// Grant implements [dcs.Backend]. Consul chooses the session's name, so that a
// Grant that stays unclear leaves one that runs out by itself.
func (b *Backend) Grant(ctx context.Context, ttl time.Duration) (dcs.Lease, dcs.Renewal, error) {
	l, r, a, err := b.grant(b.c.name(ctx, "Grant"), ttl)
	if err != nil {
		return nil, dcs.Renewal{}, backend.WrapGrantError(backendName, a.Endpoint, a.Clear, err)
	}
	return l, r, nil
}

func (b *Backend) grant(ctx context.Context, ttl time.Duration) (*lease, dcs.Renewal, endpoint.Answer[*lease], error) {
	if err := b.makeIdentity(ctx); err != nil {
		return nil, dcs.Renewal{}, endpoint.Answer[*lease]{Clear: true}, err
	}
	a, err := do(ctx, b, endpoint.Write, func(ctx context.Context, c *conn) (*lease, error) {
		return b.create(ctx, c, ttl)
	})
	if err != nil {
		return nil, dcs.Renewal{}, a, err
	}
	return a.Value, a.Value.renewal(a.First), a, nil // P1: the sending of the first copy
}

// markerLease grants the markers' lease.
func (b *Backend) markerLease(ctx context.Context, ttl time.Duration) (dcs.Lease, error) {
	l, _, _, err := b.grant(ctx, ttl)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// create makes a session at one endpoint, and its node where it is missing.
func (b *Backend) create(ctx context.Context, c *conn, ttl time.Duration) (*lease, error) {
	registered := false
	for {
		granted := min(max(ttl, time.Duration(b.minTTL.Load())), maxTTL)
		id, err := call(ctx, c, func(ctx context.Context, token string) (string, error) {
			s := &api.SessionEntry{
				Name: backendSession, Node: b.c.Node, TTL: granted.String(), NodeChecks: b.c.Checks,
				Behavior: api.SessionBehaviorDelete, LockDelay: b.c.LockDelay,
			}
			create := c.api.Session().CreateNoChecks
			if len(b.c.Checks) > 0 {
				create = c.api.Session().Create
			}
			id, _, err := create(s, writing(ctx, token))
			return id, err
		})
		if err == nil {
			return b.admit(ctx, c, &lease{b, id, granted})
		}
		if least, short := tooShort(err); short && least > granted {
			b.minTTL.Store(int64(least))
			continue
		}
		if registered || !strings.HasSuffix(err.Error(), textNoNode) || b.ofAgent() {
			return nil, err
		}
		if err := b.register(ctx, c); err != nil {
			return nil, err
		}
		registered = true
	}
}

// admit returns l unless its node is another root's. Where the node cannot be
// seen now, although the session belongs to it, the token may not read it.
func (b *Backend) admit(ctx context.Context, c *conn, l *lease) (*lease, error) {
	seen, err := b.checkNode(ctx, c)
	switch {
	case err != nil:
		_ = l.destroy(ctx, c) // else it runs out by itself
		return nil, err
	case !seen:
		b.ownNode.Store(true)
	}
	return l, nil
}

// backendSession is the sessions' name, for programs that list them.
const backendSession = "holdfast"

// learnMinTTL asks for the servers' shortest session by asking for a shorter
// one, which they refuse.
func (b *Backend) learnMinTTL(ctx context.Context) error {
	a, err := do(b.c.name(ctx, "Probe"), b, endpoint.Read, func(ctx context.Context, c *conn) (time.Duration, error) {
		_, err := call(ctx, c, func(ctx context.Context, token string) (string, error) {
			id, _, err := c.api.Session().CreateNoChecks(&api.SessionEntry{
				Name: backendSession, Node: b.c.Node, TTL: time.Nanosecond.String(), Behavior: api.SessionBehaviorDelete,
			}, writing(ctx, token))
			return id, err
		})
		if least, ok := tooShort(err); ok {
			return least, nil
		}
		return 0, err
	})
	if err != nil {
		return backend.WrapError(backendName, "Open", "", a.Endpoint, err)
	}
	if a.Value > 0 {
		b.minTTL.Store(int64(a.Value))
	}
	b.c.Logger.Info("sessions as Consul grants them", "node", b.c.Node, "shortest_ttl", a.Value, "lock_delay", b.c.LockDelay, "checks", b.c.Checks)
	return nil
}

// renewal tells what Consul grants. It ends a session after twice the TTL that
// was asked for; only once that is what we count on (P2): the other half covers
// a renewal that was taken by a leader that had been replaced.
func (l *lease) renewal(from dcs.Instant) dcs.Renewal {
	return dcs.Renewal{From: from, TTL: l.ttl, Expiry: expiry.Consul(l.ttl)}
}

// ID implements [dcs.Lease].
func (l *lease) ID() dcs.LeaseID { return dcs.LeaseID(l.id) }

// Renew implements [dcs.Lease].
func (l *lease) Renew(ctx context.Context, keys ...string) (dcs.Renewal, error) {
	ctx = context.WithValue(ctx, renewingKey{}, true)
	a, err := do(l.b.c.name(ctx, "Renew"), l.b, endpoint.Renew, func(ctx context.Context, c *conn) (dcs.Renewal, error) {
		return l.confirm(ctx, c, keys)
	})
	if err != nil {
		return dcs.Renewal{}, backend.WrapError(backendName, "Renew", "", a.Endpoint, err)
	}
	return a.Value, nil
}

// confirm renews at one endpoint. Renewals know no term: one counts only if a
// consistent read through the same endpoint was answered before it was sent
// (P2), so that whoever leads later than that leader started the session's
// time anew. The read of the last round serves, so that this round's goes out
// together with the renewal.
func (l *lease) confirm(ctx context.Context, c *conn, keys []string) (dcs.Renewal, error) {
	proof := c.proven()
	// An agent that refuses requests for their number gets them one by one.
	if proof.IsZero() || proof.Elapsed() >= l.ttl || l.b.pool.IsThrottled() {
		if _, err := l.readKeys(ctx, c, keys); err != nil {
			return dcs.Renewal{}, err
		}
		proof = c.proven()
	}
	from := dcs.Now() // P1
	if until := proof.Add(l.ttl); until.Before(from) {
		from = until
	}
	type readback struct {
		entries []dcs.Entry
		err     error
	}
	read := make(chan readback, 1)
	go func() {
		entries, err := l.readKeys(ctx, c, keys)
		read <- readback{entries, err}
	}()
	alive, err := l.renew(ctx, c)
	back := <-read
	switch {
	case err != nil:
		return dcs.Renewal{}, err
	case !alive:
		return dcs.Renewal{}, l.gone(ctx, c)
	case back.err != nil:
		return dcs.Renewal{}, back.err
	}
	r := l.renewal(from)
	if len(keys) > 0 {
		r.Entries = back.entries
		slices.SortFunc(r.Entries, func(a, b dcs.Entry) int { return cmp.Compare(a.Key, b.Key) })
	}
	return r, nil
}

func (l *lease) readKeys(ctx context.Context, c *conn, keys []string) ([]dcs.Entry, error) {
	if len(keys) == 0 {
		_, err := l.b.top(ctx, c)
		return nil, err
	}
	return l.b.read(ctx, c, keys...)
}

// renew reports whether the endpoint knows the session.
func (l *lease) renew(ctx context.Context, c *conn) (bool, error) {
	return call(ctx, c, func(ctx context.Context, token string) (bool, error) {
		s, _, err := c.api.Session().Renew(l.id, writing(ctx, token))
		return s != nil, err
	})
}

// gone asks the quorum whether a session is gone that an endpoint does not
// know: a leader that has been replaced may not know it yet, or any more.
func (l *lease) gone(ctx context.Context, c *conn) error {
	alive, err := call(ctx, c, func(ctx context.Context, token string) (bool, error) {
		s, _, err := c.api.Session().Info(l.id, c.reading(ctx, token))
		return s != nil, err
	})
	switch {
	case err != nil:
		return err
	case alive:
		return &backend.Failure{Endpoint: c.addr, Err: errAlive, Blame: true}
	}
	return &backend.Failure{Endpoint: c.addr, Kind: dcs.ErrLost, Err: fmt.Errorf("Consul knows no session %s", l.id)}
}

// Revoke implements [dcs.Lease].
func (l *lease) Revoke(ctx context.Context) error {
	a, err := do(l.b.c.name(ctx, "Revoke"), l.b, endpoint.Write, func(ctx context.Context, c *conn) (struct{}, error) {
		return struct{}{}, l.destroy(ctx, c)
	})
	if err != nil {
		return backend.WrapError(backendName, "Revoke", "", a.Endpoint, err)
	}
	return nil
}

// destroy ends the session at one endpoint.
func (l *lease) destroy(ctx context.Context, c *conn) error {
	_, err := call(ctx, c, func(ctx context.Context, token string) (struct{}, error) {
		_, err := c.api.Session().Destroy(l.id, writing(ctx, token))
		return struct{}{}, err
	})
	return err
}
