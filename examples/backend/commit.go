//go:build linux

package filestore

import (
	"context"
	"errors"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/attempt"
)

// Step 5: Commit. A disk may hang after a write was handed to it. The call returns at its
// deadline then, and the write may be made later. Package attempt makes one of three
// outcomes of that. It needs one transaction and one read (P7 to P15).

// markerTTL is the life of this client's attempt markers after its last Commit. A client
// whose marker has gone makes another one.
const markerTTL = time.Hour

// Commit implements [dcs.Backend].
func (b *Store) Commit(ctx context.Context, t dcs.Txn) (dcs.Revision, error) {
	rev, err := b.commits.Commit(ctx, t)
	b.note(rev)
	return rev, err
}

// Settle implements [dcs.Settler].
func (b *Store) Settle(ctx context.Context, e *dcs.Error) (dcs.Revision, error) {
	rev, err := b.commits.Settle(ctx, e)
	b.note(rev)
	return rev, err
}

// transport implements [attempt.Transport].
type transport struct{ b *Store }

// Send implements [attempt.Transport]. An error without ErrNotSent means that the
// transaction may have been applied.
func (t transport) Send(ctx context.Context, r attempt.Request) (attempt.Answer, error) {
	op := "Commit"
	switch {
	case r.Marker.Create && len(r.Txn.Then) == 0:
		op = "Mark"
	case len(r.Txn.Then) == 0:
		op = "Settle"
	}
	keys := r.Keys()
	for _, w := range r.Txn.Then {
		keys = append(keys, w.Key)
	}
	return update(ctx, t.b, request{op, keys}, func(s *state, now time.Duration) (attempt.Answer, bool) {
		s.extend(t.b.markers, markerTTL, now)
		rev, err := s.apply(r.Whole(t.b.markers))
		switch {
		case errors.Is(err, errCondition):
			return attempt.Answer{Outcome: attempt.Refused, Seen: true, Entries: s.entries(r.Keys())}, false
		case errors.Is(err, errLease):
			return attempt.Answer{Outcome: attempt.LeaseLost, Seen: true, Entries: s.entries(r.Keys())}, false
		}
		return attempt.Answer{Outcome: attempt.Applied, Revision: rev}, true
	})
}

// Read implements [attempt.Transport].
func (t transport) Read(ctx context.Context, keys ...string) ([]dcs.Entry, error) {
	s, err := read(ctx, t.b, request{"Read", keys})
	if err != nil {
		return nil, err
	}
	return s.entries(keys), nil
}
