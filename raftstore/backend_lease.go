package raftstore

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
)

// expirySlack is the time that an expiry may take after it is due, for a log entry.
const expirySlack = 200 * time.Millisecond

// leaseHandle is the holder's end of a lease.
type leaseHandle struct {
	b  *frontend
	id dcs.LeaseID
}

// Grant makes a lease.
func (b *frontend) Grant(ctx context.Context, ttl time.Duration) (dcs.Lease, dcs.Renewal, error) {
	if ttl <= 0 {
		return nil, dcs.Renewal{}, b.fail("Grant", "", dcs.ErrInvalid, "", errors.New("the TTL must be positive, like 30s"))
	}
	ttl = min(max(ttl, b.minTTL), state.MaxTTL)
	h := &leaseHandle{b: b, id: dcs.LeaseID("r-" + rand.Text())}
	a := &unsettled{b: b, op: "Grant"}
	from := dcs.Now() // P1: before the first copy
	r, err := b.execute(ctx, a, &state.Command{Kind: state.KindGrant, Lease: h.id, TTL: ttl})
	if err != nil {
		var e *dcs.Error
		if errors.As(err, &e) {
			e.Attempt = nil // it is settled in the background; no caller holds the lease
		}
		return nil, dcs.Renewal{}, err
	}
	switch r.Status {
	case state.StatusDone:
		b.minRevision.Raise(r.Revision)
		return h, renewal(from, ttl, nil), nil
	case state.StatusCancelled:
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
	keys = slices.Compact(slices.Sorted(slices.Values(keys)))
	from, first, err := h.renew(ctx, keys[:min(len(keys), maxRenewKeys)])
	if err != nil {
		return dcs.Renewal{}, err
	}
	entries := first.entries
	for rest := range slices.Chunk(keys[min(len(keys), maxRenewKeys):], maxRenewKeys) {
		// The renewal counts from the first call, so that all keys are read
		// after it.
		_, rep, err := h.renew(ctx, rest)
		if err != nil {
			return dcs.Renewal{}, err
		}
		entries = append(entries, rep.entries...)
	}
	for _, e := range entries {
		b.minRevision.Raise(e.Modified)
	}
	return renewal(from, first.ttl, entries), nil // P4: it holds however late it arrives
}

// renew confirms the lease in one call, which reads at most maxRenewKeys keys. from
// is the time at which the answered copy of that call was sent.
func (h *leaseHandle) renew(ctx context.Context, keys []string) (from dcs.Instant, rep reply, err error) {
	b := h.b
	r := &request{op: opRenew, lease: h.id, keys: keys}
	o := b.nodes.ask(ctx, r)
	from = o.sent // P1: when the answered copy was sent
	switch {
	case o.err != nil:
		return from, rep, b.unavailable(ctx, "Renew", "", o)
	case o.reply.kind == replyGone:
		return from, rep, b.fail("Renew", "", dcs.ErrLost, o.endpoint, errGone)
	case o.reply.tooLarge: // too large to send
		if o.reply.entries, o.err = b.nodes.keysSince(ctx, o.reply.revision, keys); o.err != nil {
			return from, rep, b.unavailable(ctx, "Renew", "", o)
		}
	}
	return from, o.reply, nil
}

// Revoke ends the lease. See dcs.Lease.
func (h *leaseHandle) Revoke(ctx context.Context) error {
	b := h.b
	a := &unsettled{b: b, op: "Revoke"}
	r, err := b.execute(ctx, a, &state.Command{Kind: state.KindRevoke, Lease: h.id})
	var e *dcs.Error
	switch {
	case errors.As(err, &e):
		if errors.Is(e.Kind, dcs.ErrAmbiguous) {
			e.Kind, e.Attempt = dcs.ErrUnavailable, nil // it may be repeated
		}
		return e
	case r.Status == state.StatusDone:
		b.minRevision.Raise(r.Revision)
		return nil
	case r.Status == state.StatusCancelled:
		return b.fail("Revoke", "", dcs.ErrUnavailable, "", errWithdrawn)
	default:
		return b.fail("Revoke", "", dcs.ErrUnavailable, "", errForgotten)
	}
}
