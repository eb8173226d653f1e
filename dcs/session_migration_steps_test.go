package dcs

import (
	"context"
	"errors"
	"testing"
	"time"
)

// spare grants the lease to which the keys of s are moved.
func (b *bench) spare(s *Session) *leaseState {
	b.Helper()
	spare, err := s.migration.grantSpare(b.Context())
	b.must(err)
	return spare
}

// P20: a move begins if less than half of the time to the deadline is left, if the
// store can move keys and settle the move, and if no attempt is unsettled.
func TestP20MigrationBegins(t *testing.T) {
	const late, early = 16 * time.Second, 14 * time.Second
	for name, x := range map[string]struct {
		after  time.Duration
		rebind bool // the store can move keys
		prep   func(s *Session)
		want   bool
	}{
		"late":                   {late, true, func(*Session) {}, true},
		"early":                  {early, true, func(*Session) {}, false},
		"early, but split":       {early, true, func(s *Session) { s.migration.split = true }, true},
		"no move can be settled": {late, true, func(s *Session) { s.migration.unsettleable = true }, false},
		"a key is claimed":       {late, true, func(s *Session) { s.claims["leader"] = &claim{} }, false},
		"keys cannot move":       {late, false, func(*Session) {}, false},
		"one is under way":       {late, true, func(s *Session) { s.migration.moving = make(chan struct{}) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(b *bench) {
				c := &settling{client: &client{w: b.w, rebind: x.rebind}}
				// Renewals that are not sent begin no move.
				s, err := b.store(c).NewSession(b.Context(), SessionOptions{Gate: errDown})
				b.must(err)
				time.Sleep(x.after)
				c.hook(func() {
					c.onGrant = func(context.Context, func() (Lease, Renewal, error)) (Lease, Renewal, error) {
						return nil, Renewal{}, errDown()
					}
				})
				s.mu.Lock()
				x.prep(s)
				got := s.migration.consider()
				s.migration.split = false
				s.mu.Unlock()
				if got != x.want {
					b.Errorf("a move is under way: %v, want %v", got, x.want)
				}
			})
		})
	}
}

// P20: from the first sending on both leases count, and the deadline is the earlier
// one. It never moves back for that.
func TestP20MigrationUsesTheEarlierDeadline(t *testing.T) {
	inTime(t, func(b *bench) {
		_, s := b.mover()
		m := &s.migration
		lasts := s.Deadline()
		short := &leaseState{until: lasts.Add(-time.Second)}
		if err := m.useSpare(short); !errors.Is(err, errRenewedMeanwhile) || m.spare != nil {
			b.Errorf("a lease that ends earlier: %v", err)
		}
		long := &leaseState{until: lasts.Add(time.Second)}
		b.must(m.useSpare(long))
		if got := m.deadline(lasts); got != lasts {
			b.Error("the deadline is not that of the session's lease")
		}
		long.until = short.until // the store has shortened it
		b.must(m.useSpare(long))
		if got := m.deadline(lasts); got != short.until {
			b.Error("the deadline is not that of the spare lease")
		}
		m.split = true
		if m.dropSpare(); m.spare != long {
			b.Error("a lease with keys was dropped")
		}
		m.split = false
		if m.dropSpare(); m.spare != nil || m.deadline(lasts) != lasts {
			b.Error("a lease without keys still counts")
		}
		b.close(s)
	})
}

// P18, P20: a plan moves the own keys that are not on the spare lease yet, as they were
// read, and no key that was released or taken over.
func TestP20MigrationPlan(t *testing.T) {
	inTime(t, func(b *bench) {
		_, s, holds := b.partsMover(5)
		other := b.plain()
		for _, key := range []string{"members/a", "members/b"} {
			_, err := s.Publish(b.Context(), key, []byte("own"))
			b.must(err)
		}
		_, err := b.w.apply(Txn{Then: []Write{PutLeased("members/b", []byte("theirs"), other.Lease())}}, true)
		b.must(err)
		b.must(holds[4].Release(b.Context()))
		spare := b.spare(s)
		p, err := s.migration.plan(b.Context(), spare)
		b.must(err)
		if len(p.parts) != 2 || p.complete || s.migration.split {
			b.Fatalf("%d parts, complete %v, split %v; want two parts of five keys", len(p.parts), p.complete, s.migration.split)
		}
		n, err := s.migration.commitParts(b.Context(), p.parts[:1], spare)
		b.must(err)
		if n != 1 || s.migration.split {
			b.Errorf("%d parts landed, split %v", n, s.migration.split)
		}
		p, err = s.migration.plan(b.Context(), spare)
		b.must(err)
		if len(p.parts) != 1 || p.complete || !s.migration.split || len(p.parts[0].Then) != 2 {
			b.Fatalf("after a part: %+v, split %v", p, s.migration.split)
		}
		_, err = s.migration.commitParts(b.Context(), p.parts, spare)
		b.must(err)
		if p, err = s.migration.plan(b.Context(), spare); err != nil || len(p.parts) != 0 || !p.complete {
			b.Fatalf("after all parts: %+v, %v", p, err)
		}
		if n := b.onLease(spare.ID()); n != 5 {
			b.Errorf("%d keys are on the spare lease, want 5", n)
		}
		s.migration.finish(spare)
		if s.Lease() != spare.ID() || s.migration.spare != nil || s.migration.split {
			b.Error("the move is not finished")
		}
		b.allValid(holds[:4], 20*time.Second)
		b.close(s)
		b.close(other)
	})
}

// P20: no part is sent after one has failed, at most partsAtOnce are under way, and
// the session is split if some of several were applied.
func TestP20MigrationParts(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s, _ := b.partsMover(60)
		spare := b.spare(s)
		p, err := s.migration.plan(b.Context(), spare)
		b.must(err)
		if len(p.parts) != 20 {
			b.Fatalf("%d parts", len(p.parts))
		}
		var sent int
		c.hook(func() {
			c.onCommit = func(_ context.Context, t Txn, do func() (Revision, error)) (Revision, error) {
				c.hook(func() { sent++ })
				if t.If[0] == p.parts[1].If[0] {
					time.Sleep(time.Second / 2) // all parts of the first turn are sent
					return 0, &Error{Kind: ErrConflict}
				}
				time.Sleep(time.Second)
				return do()
			}
		})
		n, err := s.migration.commitParts(b.Context(), p.parts, spare)
		b.is(err, ErrConflict)
		if sent != partsAtOnce || n != partsAtOnce-1 || !s.migration.split {
			b.Errorf("%d of %d parts sent, %d landed, split %v", sent, len(p.parts), n, s.migration.split)
		}
		c.hook(func() { c.onCommit = nil })
		b.close(s)
	})
}
