//go:build linux

package filestore

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Step 6: leases. The client reads its clock before the request, and the store reads the
// store's clock after it. The promise of a Renewal is therefore never longer than the life
// of the lease, however long the request takes.

// clientLease implements [dcs.Lease].
type clientLease struct {
	b  *Store
	id dcs.LeaseID
}

// Grant implements [dcs.Backend]. The client chooses the name, so that a request that is
// made twice grants one lease.
func (b *Store) Grant(ctx context.Context, ttl time.Duration) (dcs.Lease, dcs.Renewal, error) {
	l := &clientLease{b, dcs.LeaseID(rand.Text())}
	from := dcs.Now() // P1: before the request is sent
	_, err := update(ctx, b, request{op: "Grant"}, func(s *state, now time.Duration) (struct{}, bool) {
		if _, exists := s.Leases[l.id]; !exists {
			s.extend(l.id, ttl, now)
		}
		return struct{}{}, true
	})
	if err != nil {
		return nil, dcs.Renewal{}, err // without a kind: dcs reports ErrAmbiguous
	}
	return l, dcs.Renewal{From: from, TTL: ttl, Expiry: ttl}, nil
}

// ID implements [dcs.Lease].
func (l *clientLease) ID() dcs.LeaseID { return l.id }

// renewed is the answer to a Renew.
type renewed struct {
	live    bool
	ttl     time.Duration
	entries []dcs.Entry
}

// Renew implements [dcs.Lease]. The lock of the file is the evidence that P2 demands: no
// other process can change the store while the lease is confirmed.
func (l *clientLease) Renew(ctx context.Context, keys ...string) (dcs.Renewal, error) {
	from := dcs.Now() // P1
	a, err := update(ctx, l.b, request{"Renew", keys}, func(s *state, now time.Duration) (renewed, bool) {
		present, live := s.Leases[l.id]
		if !live {
			return renewed{}, false
		}
		s.extend(l.id, present.TTL, now)
		return renewed{true, present.TTL, s.entries(keys)}, true
	})
	switch {
	case err != nil:
		return dcs.Renewal{}, err // without a kind: dcs reports ErrUnavailable
	case !a.live:
		return dcs.Renewal{}, dcs.ErrLost
	}
	return dcs.Renewal{From: from, TTL: a.ttl, Expiry: a.ttl, Entries: a.entries}, nil
}

// Revoke implements [dcs.Lease].
func (l *clientLease) Revoke(ctx context.Context) error {
	_, err := update(ctx, l.b, request{op: "Revoke"}, func(s *state, _ time.Duration) (struct{}, bool) {
		_, live := s.Leases[l.id]
		if live {
			s.end(l.id)
		}
		return struct{}{}, live
	})
	return err
}
