package memstore

import (
	"context"
	"encoding/hex"
	"errors"
	"slices"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// granted is the server's answer about a live lease.
type granted struct {
	ttl       time.Duration
	expiry    time.Duration
	extension *extension // of a renewal, else nil
	entries   []dcs.Entry
	rev       dcs.Revision
}

func (r *root) granted(l *lease, x *extension, keys []string) granted {
	return granted{ttl: l.ttl, expiry: r.s.o.expiry(l.ttl), extension: x, entries: r.entries(keys), rev: r.tree.Revision()}
}

func (g granted) renewal(from dcs.Instant) dcs.Renewal {
	return dcs.Renewal{From: from, TTL: g.ttl, Expiry: g.expiry, Entries: g.entries}
}

// clientLease implements [dcs.Lease].
type clientLease struct {
	b  *Backend
	id dcs.LeaseID
}

// Grant implements [dcs.Backend]. The client chooses the id, so that all copies of the
// request grant one lease. From is the sending of the first copy.
func (b *Backend) Grant(ctx context.Context, ttl time.Duration) (dcs.Lease, dcs.Renewal, error) {
	if ttl <= 0 {
		return nil, dcs.Renewal{}, b.fail("Grant", "", &dcs.Error{Kind: dcs.ErrInvalid, Err: errors.New("the TTL must be positive")})
	}
	var raw [8]byte
	if _, err := (lockedRand{b}).Read(raw[:]); err != nil {
		return nil, dcs.Renewal{}, b.fail("Grant", "", err)
	}
	id := dcs.LeaseID(hex.EncodeToString(raw[:]))
	first := dcs.Now() // P1: the sending of the first copy, no matter which is answered
	a, err := request(ctx, b, Call{Op: OpGrant, Lease: id}, func(r *root) granted {
		return r.granted(r.grant(id, ttl), nil, nil)
	})
	if err != nil {
		if !a.nothingWritten {
			err = &dcs.Error{Kind: dcs.ErrAmbiguous, Err: err}
		}
		return nil, dcs.Renewal{}, b.fail("Grant", "", err)
	}
	return &clientLease{b: b, id: id}, a.v.renewal(first), nil
}

// ID implements [dcs.Lease].
func (l *clientLease) ID() dcs.LeaseID { return l.id }

// Renew implements [dcs.Lease]. The server extends the lease and reads keys at one moment
// after the sending, so that From + TTL is true however late the answer arrives.
func (l *clientLease) Renew(ctx context.Context, keys ...string) (dcs.Renewal, error) {
	keys = slices.Sorted(slices.Values(keys))
	a, err := request(ctx, l.b, Call{Op: OpRenew, Lease: l.id, Keys: keys}, func(r *root) granted {
		lease, x := r.renew(l.id)
		if x == nil {
			return granted{}
		}
		return r.granted(lease, x, keys)
	})
	switch {
	case err != nil:
		return dcs.Renewal{}, l.b.fail("Renew", "", err)
	case a.v.extension == nil:
		return dcs.Renewal{}, l.b.fail("Renew", "", dcs.ErrLost)
	}
	l.b.raiseMinRevision(a.v.rev)
	l.b.s.answered(l.b.o.Root, l.id, a.v.extension, a.sent)
	return a.v.renewal(a.sent), nil // P4: true however late it arrives
}

// Revoke implements [dcs.Lease].
func (l *clientLease) Revoke(ctx context.Context) error {
	_, err := request(ctx, l.b, Call{Op: OpRevoke, Lease: l.id}, func(r *root) bool { return r.end(l.id) })
	if err != nil {
		return l.b.fail("Revoke", "", err)
	}
	return nil
}
