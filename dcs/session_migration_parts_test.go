package dcs

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"
)

// partsMover returns a session with n locks on a store that takes three keys in each
// Txn that moves them.
func (b *bench) partsMover(n int) (*settling, *Session, []*Hold) {
	b.Helper()
	c := &settling{client: &client{w: b.w, rebind: true, ops: 7}}
	s := b.session(c)
	var holds []*Hold
	for i := range n {
		holds = append(holds, b.hold(s, fmt.Sprintf("locks/%03d", i)))
	}
	return c, s, holds
}

// onLease counts the keys that are bound to a lease.
func (b *bench) onLease(id LeaseID) (n int) {
	b.w.mu.Lock()
	defer b.w.mu.Unlock()
	for _, e := range b.w.entries {
		if e.Lease == id {
			n++
		}
	}
	return n
}

// failMovesAfter lets n Txns that move keys pass, and fails the others.
func (c *settling) failMovesAfter(n int) {
	var left atomic.Int64
	left.Store(int64(n))
	c.hook(func() {
		c.onCommit = func(_ context.Context, t Txn, do func() (Revision, error)) (Revision, error) {
			if moves(t) && t.If[0].On == Modified && left.Add(-1) < 0 {
				return 0, errDown()
			}
			return do()
		}
	})
}

// onPart counts the parts of moves that are sent and lets then answer part n, after the
// others have been sent.
func (c *settling) onPart(n int64, then func(t Txn, do func() (Revision, error)) (Revision, error)) (sent *atomic.Int64) {
	sent = &atomic.Int64{}
	c.hook(func() {
		c.onCommit = func(_ context.Context, t Txn, do func() (Revision, error)) (Revision, error) {
			if moves(t) && sent.Add(1) == n {
				time.Sleep(time.Millisecond)
				return then(t, do)
			}
			return do()
		}
	})
	return sent
}

// allValid checks for d that all Holds are valid and each has its key.
func (b *bench) allValid(holds []*Hold, d time.Duration) {
	b.Helper()
	for range int(d / time.Second) {
		for _, h := range holds {
			b.valid(h, true)
			if e, _ := b.w.get(h.Key()); e.Created != h.Token() {
				b.Fatalf("%s has token %d, the store has %+v", h.Key(), h.Token(), e)
			}
		}
		time.Sleep(time.Second)
	}
}

// P20: more keys than a Txn takes are moved in several Txns.
func TestP20ManyKeysMoveInParts(t *testing.T) {
	for _, n := range []int{4, fewReads + 1, 100} {
		inTime(t, func(b *bench) {
			c, s, holds := b.partsMover(n)
			_, err := s.Publish(b.Context(), "members/a", []byte("a"))
			b.must(err)
			first := s.Lease()
			c.failOn(first)
			b.allValid(holds, time.Minute)
			if s.Lease() == first || b.w.live() != 1 || b.onLease(s.Lease()) != n+1 {
				b.Fatalf("lease %s with %d of %d keys, %d leases alive", s.Lease(), b.onLease(s.Lease()), n+1, b.w.live())
			}
			if sent, want := c.count(string(s.Lease())), (n+1+2)/3; sent != want {
				b.Errorf("%d Txns, want %d", sent, want)
			}
			b.must(holds[n-1].Confirm(b.Context()))
			b.must(holds[0].Release(b.Context()))
			b.close(s)
			if b.w.live() != 0 || len(b.w.entries) != 0 {
				b.Errorf("%d leases and %d keys are left", b.w.live(), len(b.w.entries))
			}
		})
	}
}

// P20: a part of the keys has moved, and the rest cannot move yet. While both leases
// are renewed all Holds stay valid, and the rest moves later.
func TestP20TheRestMovesLater(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s, holds := b.partsMover(10)
		first := s.Lease()
		c.failOn(first)
		c.failMovesAfter(2)
		time.Sleep(17 * time.Second)
		left := b.onLease(first)
		if left == 0 || left == 10 || s.Lease() != first {
			b.Fatalf("%d of 10 keys are on the old lease, lease %s", left, s.Lease())
		}
		c.hook(func() { c.onRenew = nil })
		b.allValid(holds, time.Minute)
		if s.Lease() != first || b.w.live() != 2 || b.onLease(first) != left {
			b.Fatalf("lease %s with %d keys, %d alive", s.Lease(), b.onLease(first), b.w.live())
		}
		// A key can be acquired, written and released meanwhile.
		more := b.hold(s, "more")
		b.must(holds[0].Update(b.Context(), []byte("young")))
		b.must(holds[9].Release(b.Context()))
		c.hook(func() { c.onCommit = nil })
		b.allValid(append(holds[:9:9], more), time.Minute)
		if s.Lease() == first || b.w.live() != 1 || b.onLease(s.Lease()) != 10 {
			b.Fatalf("lease %s with %d keys, %d alive", s.Lease(), b.onLease(s.Lease()), b.w.live())
		}
		if e, _ := b.w.get(holds[0].Key()); string(e.Value) != "young" {
			b.Errorf("%+v", e)
		}
		b.close(s)
	})
}

// P20: the deadline of a session whose keys are on two leases is the earlier one of
// both.
func TestP20SplitSessionEndsWithItsEarlierLease(t *testing.T) {
	for _, dead := range []string{"the old lease", "the spare lease"} {
		t.Run(dead, func(t *testing.T) {
			inTime(t, func(b *bench) {
				c, s, holds := b.partsMover(10)
				first := s.Lease()
				c.failOn(first)
				c.failMovesAfter(2)
				time.Sleep(17 * time.Second)
				if dead == "the spare lease" {
					c.failOn("lease-2")
				}
				for range 60 {
					for _, h := range holds {
						if e, _ := b.w.get(h.Key()); h.Valid() && e.Created != h.Token() {
							b.Fatalf("%s is Valid, the store has %+v", h.Key(), e)
						}
					}
					time.Sleep(time.Second)
				}
				b.is(s.Err(), ErrExpired)
				if b.w.live() != 0 {
					b.Errorf("%d leases are left", b.w.live())
				}
				b.close(s)
			})
		})
	}
}

// P14, P20: the store reports that the spare lease is gone, and with it the keys that
// had moved.
func TestP20SpareOfASplitSessionIsLost(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s, _ := b.partsMover(10)
		first := s.Lease()
		c.failOn(first)
		c.hook(func() {
			c.onRenew = func(context.Context, LeaseID, func() (Renewal, error)) (Renewal, error) { return Renewal{}, errDown() }
		})
		c.onPart(4, func(t Txn, do func() (Revision, error)) (Revision, error) {
			time.Sleep(time.Second) // the other parts have been applied
			b.w.end(t.Lease())
			return do()
		})
		time.Sleep(20 * time.Second)
		b.is(s.Err(), ErrExpired)
		b.close(s)
	})
}

// P20: a move is complete when each of its parts is settled, and no other move begins
// before.
func TestP20AmbiguousPart(t *testing.T) {
	for _, lands := range []bool{false, true} {
		t.Run(fmt.Sprintf("lands %v", lands), func(t *testing.T) {
			inTime(t, func(b *bench) {
				c, s, holds := b.partsMover(10)
				first := s.Lease()
				c.failOn(first)
				u := &ambiguousCommit{}
				c.hook(func() { c.blocked = true })
				parts := c.onPart(2, func(_ Txn, do func() (Revision, error)) (Revision, error) {
					u.mu.Lock()
					defer u.mu.Unlock()
					u.do = do
					return 0, u.err()
				})
				time.Sleep(17 * time.Second)
				if lands {
					b.must(u.land())
				}
				time.Sleep(5 * time.Second)
				if parts.Load() != 4 || b.w.granted != 2 || b.w.live() != 2 || s.Lease() != first {
					b.Fatalf("%d parts were sent, %d leases granted, %d alive, lease %s", parts.Load(), b.w.granted, b.w.live(), s.Lease())
				}
				c.hook(func() { c.blocked = false })
				b.allValid(holds, time.Minute)
				if s.Lease() == first || b.w.live() != 1 || b.onLease(s.Lease()) != 10 {
					b.Fatalf("lease %s with %d keys, %d alive", s.Lease(), b.onLease(s.Lease()), b.w.live())
				}
				b.close(s)
			})
		})
	}
}

// P20: if one part cannot be settled, both leases stay in use, although the other
// parts have been applied.
func TestP20PartThatCannotBeSettled(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s, holds := b.partsMover(10)
		first := s.Lease()
		c.failOn(first)
		parts := c.onPart(2, func(Txn, func() (Revision, error)) (Revision, error) {
			return 0, &Error{Kind: ErrAmbiguous}
		})
		time.Sleep(17 * time.Second)
		c.hook(func() { c.onRenew = nil })
		b.allValid(holds, 2*time.Minute)
		if parts.Load() != 4 || b.w.live() != 2 || s.Lease() != first {
			b.Fatalf("%d parts were sent, %d leases alive, lease %s", parts.Load(), b.w.live(), s.Lease())
		}
		b.close(s)
	})
}

// Closing a session whose keys are on two leases revokes both.
func TestP20SplitSessionIsClosed(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s, _ := b.partsMover(10)
		c.failOn(s.Lease())
		c.failMovesAfter(2)
		time.Sleep(17 * time.Second)
		b.close(s)
		if b.w.live() != 0 || len(b.w.entries) != 0 {
			b.Errorf("%d leases and %d keys are left", b.w.live(), len(b.w.entries))
		}
	})
}

// Closing a session with many locks deletes them with few Txns.
func TestManyLocksAreDeletedInParts(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s, holds := b.partsMover(20)
		_, err := b.w.apply(Txn{Then: []Write{Delete(holds[3].Key())}}, true)
		b.must(err)
		c.hook(func() {
			c.onRevoke = func(context.Context, LeaseID, func() error) error { return errDown() }
		})
		sent := len(c.sent)
		b.is(s.Close(context.Background()), ErrUnavailable)
		if n := len(c.sent) - sent; n != 7 {
			b.Errorf("%d Txns for 20 locks, three in each", n)
		}
		b.w.mu.Lock()
		defer b.w.mu.Unlock()
		if n := len(b.w.entries); n > 2 {
			b.Errorf("%d keys are left, which is more than those in the Txn with the one that was gone", n)
		}
	})
}
