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

// A lease is a session of Consul.
type lease struct {
	b   *Backend
	id  string
	ttl time.Duration
}

// Grant implements [dcs.Backend]. Consul chooses the id of the session, so that a Grant
// whose outcome stays unclear may leave a session, which expires by itself.
func (b *Backend) Grant(ctx context.Context, ttl time.Duration) (dcs.Lease, dcs.Renewal, error) {
	l, r, a, err := b.grant(b.hooks.named(ctx, "Grant"), ttl)
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

// markerLease grants the lease of the markers.
func (b *Backend) markerLease(ctx context.Context, ttl time.Duration) (dcs.Lease, error) {
	l, _, _, err := b.grant(ctx, ttl)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// create creates a session at one endpoint, and registers its node if it is missing.
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

// admit returns l unless its node belongs to another root. If the node is not visible
// although the session belongs to it, the token may not read the node.
func (b *Backend) admit(ctx context.Context, c *conn, l *lease) (*lease, error) {
	seen, err := b.checkNode(ctx, c)
	switch {
	case err != nil:
		_ = l.destroy(ctx, c) // if that fails, the session expires by itself
		return nil, err
	case !seen:
		b.ownNode.Store(true)
	}
	return l, nil
}

// backendSession is the name of the sessions, which programs that list sessions show.
const backendSession = "holdfast"

// learnMinTTL reads the minimum session TTL by requesting a shorter one. The servers
// refuse it with a text that names the minimum.
func (b *Backend) learnMinTTL(ctx context.Context) error {
	a, err := do(b.hooks.named(ctx, "Probe"), b, endpoint.Read, func(ctx context.Context, c *conn) (time.Duration, error) {
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
	b.c.Logger.Info("Consul grants sessions with these settings", "node", b.c.Node, "shortest_ttl", a.Value, "lock_delay", b.c.LockDelay, "checks", b.c.Checks)
	return nil
}

// renewal returns the Renewal of a session. Consul ends a session after twice its TTL,
// but the client relies on one TTL only (P2). The other half covers a renewal that was
// confirmed by a leader that had been replaced.
func (l *lease) renewal(from dcs.Instant) dcs.Renewal {
	return dcs.Renewal{From: from, TTL: l.ttl, Expiry: expiry.Consul(l.ttl)}
}

// ID implements [dcs.Lease].
func (l *lease) ID() dcs.LeaseID { return dcs.LeaseID(l.id) }

// Renew implements [dcs.Lease].
func (l *lease) Renew(ctx context.Context, keys ...string) (dcs.Renewal, error) {
	ctx = context.WithValue(ctx, renewingKey{}, true)
	a, err := do(l.b.hooks.named(ctx, "Renew"), l.b, endpoint.Renew, func(ctx context.Context, c *conn) (dcs.Renewal, error) {
		return l.confirm(ctx, c, keys)
	})
	if err != nil {
		return dcs.Renewal{}, backend.WrapError(backendName, "Renew", "", a.Endpoint, err)
	}
	return a.Value, nil
}

// confirm renews at one endpoint. Renewals have no term. A renewal counts only if a
// consistent read through the same endpoint was answered before it was sent (P2). Then
// every leader later than the one that answered the read restarted the TTL of the session
// after the read was sent. The read of the last round is used, so that the read of this
// round is sent together with the renewal.
func (l *lease) confirm(ctx context.Context, c *conn, keys []string) (dcs.Renewal, error) {
	proof := c.proven()
	// An agent that refuses requests because there are too many receives them one by
	// one.
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

// renew renews the session, and reports whether the endpoint knows it.
func (l *lease) renew(ctx context.Context, c *conn) (bool, error) {
	return call(ctx, c, func(ctx context.Context, token string) (bool, error) {
		s, _, err := c.api.Session().Renew(l.id, writing(ctx, token))
		return s != nil, err
	})
}

// gone returns the error of a session that an endpoint does not know. It is ErrLost
// only if the quorum does not know the session either, because a leader that has been
// replaced may not know it.
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
	return &backend.Failure{Endpoint: c.addr, Kind: dcs.ErrLost, Err: fmt.Errorf("session %s does not exist in Consul", l.id)}
}

// Revoke implements [dcs.Lease].
func (l *lease) Revoke(ctx context.Context) error {
	a, err := do(l.b.hooks.named(ctx, "Revoke"), l.b, endpoint.Write, func(ctx context.Context, c *conn) (struct{}, error) {
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
