package dcs

import (
	"context"
	"sync/atomic"
	"testing"
	"time"
)

// P20, P3: renewals of the old lease work again while the keys are read for the move.
// The deadline then lies after that of the fresh lease, and must not move back, so
// that no key may move to the fresh lease.
func TestP20OldLeaseIsRenewedMeanwhile(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.mover()
		h := b.hold(s, "leader")
		first := s.Lease()
		c.failOn(first)
		c.hook(func() {
			c.onGet = func(_ context.Context, _ string, do func() (Entry, error)) (Entry, error) {
				time.Sleep(4 * time.Second)
				c.hook(func() { c.onGet, c.onRenew = nil, nil })
				time.Sleep(3 * time.Second)
				refuseAll(c.client)
				c.hook(func() {
					c.onGrant = func(context.Context, func() (Lease, Renewal, error)) (Lease, Renewal, error) {
						return nil, Renewal{}, errDown()
					}
				})
				return do()
			}
		})
		b.watch(h, 24*time.Second)
		if s.Lease() != first || b.w.live() != 1 {
			b.Fatalf("lease %s, %d alive", s.Lease(), b.w.live())
		}
		b.watch(h, time.Minute)
		b.is(h.Err(), ErrExpired)
		b.close(s)
	})
}

// P20, P11: an ambiguous move that cannot be applied any more is read back, and the
// read is repeated while it fails.
func TestP20FencedMoveIsReadUntilItIsKnown(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.mover()
		h := b.hold(s, "leader")
		first := s.Lease()
		c.hook(func() { c.blocked = true })
		u := c.catch(moves)
		c.failOn(first)
		time.Sleep(17 * time.Second)
		b.must(u.land())
		var failed atomic.Int64
		c.hook(func() {
			c.blocked, c.fenced = false, true
			c.onGet = func(_ context.Context, _ string, do func() (Entry, error)) (Entry, error) {
				if failed.Add(1) <= 3 {
					return Entry{}, errDown()
				}
				return do()
			}
		})
		b.watch(h, time.Minute)
		b.valid(h, true)
		if failed.Load() <= 3 || s.Lease() == first {
			b.Fatalf("%d readings, lease %s", failed.Load(), s.Lease())
		}
		b.close(s)
	})
}

// While a move is unsettled, the answer of one lease counts although the renewal of
// the other one hangs until the deadline.
func TestP20OneLeaseHangs(t *testing.T) {
	for _, hangs := range []LeaseID{"lease-2", "nobody"} {
		inTime(t, func(b *bench) {
			c, s := b.mover()
			h := b.hold(s, "leader")
			c.hook(func() { c.blocked = true })
			c.catch(moves)
			refuseAll(c.client)
			time.Sleep(21 * time.Second)
			c.hook(func() {
				c.onRenew = func(ctx context.Context, l LeaseID, do func() (Renewal, error)) (Renewal, error) {
					if l == hangs {
						<-ctx.Done()
						return Renewal{}, ctx.Err()
					}
					return do()
				}
			})
			b.watch(h, 15*time.Second) // 29.4 s is the old lease's first deadline
			b.valid(h, true)
			c.hook(func() { c.blocked, c.onRenew = false, nil })
			b.watch(h, time.Minute)
			b.must(h.Confirm(b.Context()))
			b.close(s)
		})
	}
}

// The entries in that answer are checked before the deadline moves.
func TestP20OneLeaseHangsAndTheKeyIsGone(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.mover()
		h := b.hold(s, "leader")
		c.hook(func() { c.blocked = true })
		c.catch(moves)
		refuseAll(c.client)
		time.Sleep(21 * time.Second)
		_, err := b.w.apply(Txn{Then: []Write{Delete("leader")}}, true)
		b.must(err)
		c.hook(func() {
			c.onRenew = func(ctx context.Context, l LeaseID, do func() (Renewal, error)) (Renewal, error) {
				if l == "lease-2" {
					<-ctx.Done()
					return Renewal{}, ctx.Err()
				}
				return do()
			}
		})
		time.Sleep(3 * time.Second) // at most 2 s of pause, and the renewal
		b.is(h.Err(), ErrLost)
		b.close(s)
	})
}
