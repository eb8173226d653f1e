package raftstore

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// expirySlack is what an expiry may take beyond its due time: a log entry.
const expirySlack = 200 * time.Millisecond

// leaseHandle is a lease as its holder sees it.
type leaseHandle struct {
	b  *Backend
	id dcs.LeaseID
}

// Grant makes a lease.
func (b *Backend) Grant(ctx context.Context, ttl time.Duration) (dcs.Lease, dcs.Renewal, error) {
	if ttl <= 0 {
		return nil, dcs.Renewal{}, b.fail("Grant", "", dcs.ErrInvalid, "", errors.New("the TTL must be positive, like 30s"))
	}
	ttl = min(max(ttl, b.config.MinTTL), maxTTL)
	h := &leaseHandle{b: b, id: dcs.LeaseID("r-" + rand.Text())}
	a := &unsettled{b: b, op: "Grant"}
	from := dcs.Now() // P1: before the first copy
	r, err := b.execute(ctx, a, &command{kind: cmdGrant, lease: h.id, ttl: ttl})
	if err != nil {
		var e *dcs.Error
		if errors.As(err, &e) {
			e.Attempt = nil // the background settles it; nobody holds the lease
		}
		return nil, dcs.Renewal{}, err
	}
	switch r.status {
	case statusDone:
		b.raise(r.revision)
		return h, renewal(from, ttl, nil), nil
	case statusCancelled:
		return nil, dcs.Renewal{}, b.fail("Grant", "", dcs.ErrUnavailable, "", errWithdrawn)
	default:
		return nil, dcs.Renewal{}, b.fail("Grant", "", dcs.ErrAmbiguous, "", errForgotten)
	}
}

func renewal(from dcs.Instant, ttl time.Duration, entries []dcs.Entry) dcs.Renewal {
	return dcs.Renewal{From: from, TTL: ttl, Expiry: expiry(ttl) + expirySlack, Entries: entries}
}

// ID names the lease.
func (h *leaseHandle) ID() dcs.LeaseID { return h.id }

// Renew confirms the lease for another TTL. See dcs.Lease.
func (h *leaseHandle) Renew(ctx context.Context, keys ...string) (dcs.Renewal, error) {
	b := h.b
	ctx, cancel := b.budget(ctx)
	defer cancel()
	var from dcs.Instant
	r := &request{op: opRenew, lease: h.id, keys: slices.Clone(keys)}
	// P1: the sending of the copy that is answered; copies do not overlap.
	o := b.node.ask(ctx, r, func() { from = dcs.Now() })
	switch {
	case o.err != nil:
		return dcs.Renewal{}, b.unavailable(ctx, "Renew", "", o)
	case o.reply.kind == replyGone:
		return dcs.Renewal{}, b.fail("Renew", "", dcs.ErrLost, o.endpoint, errGone)
	}
	for _, e := range o.reply.entries {
		b.raise(e.Modified)
	}
	return renewal(from, o.reply.ttl, o.reply.entries), nil // P4: true however late it is
}

// Revoke ends the lease. See dcs.Lease.
func (h *leaseHandle) Revoke(ctx context.Context) error {
	b := h.b
	a := &unsettled{b: b, op: "Revoke"}
	r, err := b.execute(ctx, a, &command{kind: cmdRevoke, lease: h.id})
	var e *dcs.Error
	switch {
	case errors.As(err, &e):
		if errors.Is(e.Kind, dcs.ErrAmbiguous) {
			e.Kind, e.Attempt = dcs.ErrUnavailable, nil // it may be repeated
		}
		return e
	case r.status == statusDone:
		b.raise(r.revision)
		return nil
	case r.status == statusCancelled:
		return b.fail("Revoke", "", dcs.ErrUnavailable, "", errWithdrawn)
	default:
		return b.fail("Revoke", "", dcs.ErrUnavailable, "", errForgotten)
	}
}
