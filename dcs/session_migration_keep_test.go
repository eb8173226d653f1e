package dcs

import (
	"context"
	"sync/atomic"
	"testing"
	"time"
)

// P20: while commits work and renewals hang for ever, each move brings the session a
// new deadline.
func TestP20MovesAloneKeepASession(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.mover()
		h := b.hold(s, "leader")
		c.hook(func() {
			c.onRenew = func(ctx context.Context, _ LeaseID, _ func() (Renewal, error)) (Renewal, error) {
				<-ctx.Done()
				return Renewal{}, ctx.Err()
			}
		})
		b.watch(h, 3*time.Minute)
		b.valid(h, true)
		if n := b.seen(func(e StateEvent) bool { return e.Key == "" && e.From == Unknown && e.To == Held }); n == 0 {
			b.Error("no move was reported as one that restores the state Held")
		}
		c.hook(func() { c.onRenew = nil })
		b.must(h.Confirm(b.Context()))
		b.close(s)
	})
}

// P20: renewals hang for ever, and the TTL is the shortest that Timing allows. The
// renewal after a move, which is sent at once, leaves time for the next move.
func TestP20SlowRenewalLeavesTimeForAMove(t *testing.T) {
	inTime(t, func(b *bench) {
		c := &settling{client: &client{w: b.w, rebind: true}}
		s, err := b.store(c).NewSession(b.Context(), SessionOptions{Timing: Timing{TTL: 13 * time.Second, LoopWait: time.Second, RetryTimeout: 6 * time.Second}})
		b.must(err)
		h := b.hold(s, "leader")
		c.hook(func() {
			c.onRenew = func(ctx context.Context, _ LeaseID, _ func() (Renewal, error)) (Renewal, error) {
				<-ctx.Done()
				return Renewal{}, ctx.Err()
			}
			c.onCommit = func(_ context.Context, _ Txn, do func() (Revision, error)) (Revision, error) {
				time.Sleep(2 * time.Second)
				return do()
			}
		})
		b.watch(h, time.Minute)
		b.valid(h, true)
		b.close(s)
	})
}

// P20: the fresh lease is renewed as soon as it is in use. If there is nothing to
// move, that holds without a Settler too.
func TestP20FreshLeaseIsRenewedAtOnce(t *testing.T) {
	inTime(t, func(b *bench) {
		c := &client{w: b.w, rebind: true}
		s := b.session(c)
		first := s.Lease()
		var moved, renewed atomic.Pointer[time.Time]
		note := func(at *atomic.Pointer[time.Time]) { now := time.Now(); at.CompareAndSwap(nil, &now) }
		c.hook(func() {
			c.onRevoke = func(_ context.Context, _ LeaseID, do func() error) error { note(&moved); return do() }
			c.onRenew = func(_ context.Context, l LeaseID, do func() (Renewal, error)) (Renewal, error) {
				if l == first {
					return Renewal{}, errDown()
				}
				note(&renewed)
				return do()
			}
		})
		time.Sleep(29 * time.Second)
		if moved.Load() == nil || renewed.Load() == nil {
			b.Fatal("no move was made")
		}
		if d := renewed.Load().Sub(*moved.Load()); d != 0 {
			b.Errorf("renewed %v after the move", d)
		}
		b.close(s)
	})
}

// P19, P20: a published key that another session took over is not moved and so not
// written, although no renewal has detected that yet.
func TestP20TakenOverKeyDoesNotMove(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.mover()
		h := b.hold(s, "leader")
		_, err := s.Publish(b.Context(), "members/a", []byte("old"))
		b.must(err)
		first := s.Lease()
		c.failOn(first)
		_, other := b.mover()
		_, err = other.Publish(b.Context(), "members/a", []byte("new"))
		b.must(err)
		time.Sleep(time.Minute)
		b.valid(h, true)
		if s.Lease() == first {
			b.Fatal("no move was made")
		}
		b.member("new", other.Lease())
		b.close(s)
		b.close(other)
	})
}

// P20: a key that belongs to another session by now does not show the outcome of a
// move. The next key is read.
func TestP20OutcomeIsReadFromOwnKeys(t *testing.T) {
	inTime(t, func(b *bench) {
		_, s := b.mover()
		b.hold(b.plain(), "a")
		c := &client{w: b.w}
		lease, _, err := c.Grant(b.Context(), 30*time.Second)
		b.must(err)
		spare := &leaseState{Lease: lease}
		t := Txn{Then: []Write{PutLeased("a", nil, spare.ID()), PutLeased("b", nil, spare.ID())}}
		if how := s.migration.readBack(t, spare); how != refused {
			b.Errorf("a move of which no key is left: %v", how)
		}
		_, err = b.w.apply(Txn{Then: t.Then[1:]}, true)
		b.must(err)
		if how := s.migration.readBack(t, spare); how != landed {
			b.Errorf("a move of which the second key is left: %v", how)
		}
		b.closeAll()
	})
}

// P20: a Grant that is answered after the end of the session leaves no lease.
func TestP20GrantAnsweredAfterTheEnd(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.mover()
		var asked atomic.Bool
		c.hook(func() {
			c.onGrant = func(_ context.Context, do func() (Lease, Renewal, error)) (Lease, Renewal, error) {
				asked.Store(true)
				time.Sleep(5 * time.Second)
				return do()
			}
		})
		refuseAll(c.client)
		for !asked.Load() && s.Err() == nil {
			time.Sleep(100 * time.Millisecond)
		}
		b.close(s)
		if b.w.granted != 2 || b.w.live() != 0 {
			b.Errorf("%d leases granted, %d left", b.w.granted, b.w.live())
		}
	})
}

// A move that completes after the end of the session changes nothing.
func TestP20MovedAfterTheEnd(t *testing.T) {
	inTime(t, func(b *bench) {
		_, s := b.mover()
		first := s.Lease()
		spare, err := s.migration.grantSpare(b.Context())
		b.must(err)
		s.end(&Error{Kind: ErrReleased})
		s.migration.finish(spare)
		if got := s.Lease(); got != first {
			b.Errorf("the session ended on lease %s and reports %s", first, got)
		}
		b.close(s)
	})
}

// P1, P3: the deadline of the fresh lease counts from the sending of its Grant.
func TestP20SpareCountsFromItsSending(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.mover()
		h := b.hold(s, "leader")
		c.hook(func() {
			c.onGrant = func(_ context.Context, do func() (Lease, Renewal, error)) (Lease, Renewal, error) {
				if b.w.granted == 2 {
					return nil, Renewal{}, errDown()
				}
				l, r, err := do()
				time.Sleep(3 * time.Second)
				return l, r, err
			}
		})
		refuseAll(c.client)
		b.watch(h, time.Minute)
		if b.w.granted != 2 {
			b.Fatal("no move was made")
		}
		b.is(h.Err(), ErrExpired)
		b.close(s)
	})
}
