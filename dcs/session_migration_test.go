package dcs

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"
)

// failOn makes the renewals of one lease fail.
func (c *client) failOn(id LeaseID) {
	c.hook(func() {
		c.onRenew = func(_ context.Context, l LeaseID, do func() (Renewal, error)) (Renewal, error) {
			if l == id {
				return Renewal{}, errDown()
			}
			return do()
		}
	})
}

func (b *bench) mover() (*settling, *Session) {
	b.Helper()
	c := &settling{client: &client{w: b.w, rebind: true}}
	return c, b.session(c)
}

// P20: if renewals fail and commits work, the keys move and keep their tokens, and no
// Hold ends.
func TestP20KeysMoveToAFreshLease(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.mover()
		h, second := b.hold(s, "leader"), b.hold(s, "second")
		_, err := s.Publish(b.Context(), "members/a", []byte("a"))
		b.must(err)
		first := s.Lease()
		// A value that another client wrote under the guard moves along.
		_, err = b.w.apply(Txn{If: []Cond{h.Guard()}, Then: []Write{PutLeased("leader", []byte("rewritten"), first)}}, true)
		b.must(err)
		c.failOn(first)
		b.watch(h, 20*time.Second)
		if s.Lease() == first || b.w.live() != 1 {
			b.Fatalf("lease %s, %d leases alive", s.Lease(), b.w.live())
		}
		b.watch(h, 5*time.Minute)
		for _, h := range []*Hold{h, second} {
			b.valid(h, true)
			b.must(h.Confirm(b.Context()))
		}
		if s.Lease() == first || s.State() != Held || b.w.live() != 1 {
			b.Fatalf("lease %s, %v, %d leases alive", s.Lease(), s.State(), b.w.live())
		}
		e, _ := b.w.get("leader")
		if e.Created != h.Token() || e.Lease != s.Lease() || string(e.Value) != "rewritten" {
			b.Fatalf("%+v", e)
		}
		b.member("a", s.Lease())
		_, err = s.Publish(b.Context(), "members/a", []byte("b"))
		b.must(err)
		b.must(h.Update(b.Context(), []byte("more")))
		b.must(h.Release(b.Context()))
		if n := b.seen(func(e StateEvent) bool { return e.To == Lost && !errors.Is(e.Reason, ErrReleased) }); n != 0 {
			b.Fatalf("%d losses were reported", n)
		}
		b.close(s)
		if b.w.live() != 0 {
			b.Fatal("a lease is left")
		}
	})
}

// Renewals that hang leave time for a move too.
func TestP20MoveWhileRenewalsHang(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.mover()
		h := b.hold(s, "leader")
		first := s.Lease()
		c.hook(func() {
			c.onRenew = func(ctx context.Context, l LeaseID, do func() (Renewal, error)) (Renewal, error) {
				if l == first {
					<-ctx.Done()
					return Renewal{}, ctx.Err()
				}
				return do()
			}
		})
		b.watch(h, 2*time.Minute)
		b.must(h.Confirm(b.Context()))
		b.close(s)
	})
}

// A session without keys goes on with a fresh lease too.
func TestP20NothingToMove(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.mover()
		first := s.Lease()
		c.failOn(first)
		time.Sleep(2 * time.Minute)
		if s.Err() != nil || s.Lease() == first {
			b.Fatal(s.Err())
		}
		b.close(s)
	})
}

func TestP20NoMove(t *testing.T) {
	for _, x := range []struct {
		name string
		prep func(b *bench) (*settling, *Session)
	}{
		{"the store cannot", func(b *bench) (*settling, *Session) { return b.actor() }},
		{"an attempt is unsettled", func(b *bench) (*settling, *Session) {
			c, s := b.mover()
			c.blocked = true
			c.catch(anyTxn)
			_, err := s.TryAcquire(b.Context(), "ambiguous", nil)
			b.is(err, ErrAmbiguous)
			return c, s
		}},
	} {
		t.Run(x.name, func(t *testing.T) {
			inTime(t, func(b *bench) {
				c, s := x.prep(b)
				h := b.hold(s, "leader")
				granted := b.w.granted
				refuseAll(c.client)
				time.Sleep(29 * time.Second)
				b.valid(h, true)
				if b.w.granted != granted {
					b.Fatal("a lease was granted for a move that cannot be")
				}
				time.Sleep(time.Second)
				b.is(h.Err(), ErrExpired)
			})
		})
	}
	t.Run("the backend has no Settler", func(t *testing.T) {
		inTime(t, func(b *bench) {
			c := &client{w: b.w, rebind: true}
			s := b.session(c)
			b.hold(s, "leader")
			refuseAll(c)
			time.Sleep(time.Minute)
			if b.w.granted != 1 {
				b.Fatal("moved")
			}
			b.is(s.Err(), ErrExpired)
		})
	})
}

// P20: the outcome of an ambiguous move is determined before any other write.
func TestP20AmbiguousMove(t *testing.T) {
	for _, lands := range []bool{false, true} {
		for _, fenced := range []bool{false, true} {
			t.Run(fmt.Sprintf("lands %v, fenced %v", lands, fenced), func(t *testing.T) {
				inTime(t, func(b *bench) {
					c, s := b.mover()
					h := b.hold(s, "leader")
					first := s.Lease()
					c.hook(func() { c.blocked = true })
					u := c.catch(moves)
					c.failOn(first)
					time.Sleep(17 * time.Second)
					if s.Lease() != first || b.w.live() != 2 {
						b.Fatal("no move is under way")
					}
					if lands {
						b.must(u.land())
					}
					_, err := s.TryAcquire(b.Context(), "other", nil)
					b.is(err, ErrUnavailable)
					time.Sleep(6 * time.Second)
					if left := h.Remaining(); left > 8*time.Second {
						b.Fatalf("%v remain, though the old lease is not renewed", left)
					}
					c.hook(func() { c.blocked, c.fenced = false, fenced })
					b.watch(h, time.Minute)
					b.valid(h, true)
					b.must(h.Confirm(b.Context()))
					b.hold(s, "other")
					if b.w.live() != 1 {
						b.Fatalf("%d leases", b.w.live())
					}
					b.close(s)
				})
			})
		}
	}
}

// P20: Close and loss revoke the spare lease too, and with it the unsettled move.
func TestP20SpareIsRevoked(t *testing.T) {
	for _, lost := range []bool{false, true} {
		inTime(t, func(b *bench) {
			c, s := b.mover()
			h := b.hold(s, "leader")
			c.hook(func() { c.blocked = true })
			u := c.catch(moves)
			c.failOn(s.Lease())
			time.Sleep(17 * time.Second)
			if lost {
				time.Sleep(13 * time.Second)
				b.is(s.Err(), ErrExpired)
				time.Sleep(time.Second) // the margin
			} else {
				b.close(s)
			}
			b.valid(h, false)
			if n := b.w.live(); n != 0 {
				b.Fatalf("%d leases left", n)
			}
			if u.land() == nil {
				b.Fatal("the move was applied on a revoked lease")
			}
		})
	}
}

// If the spare lease is lost while the move is unsettled, the session ends, because the
// keys may be bound to it.
func TestP20SpareLost(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.mover()
		h := b.hold(s, "leader")
		first := s.Lease()
		c.hook(func() { c.blocked = true })
		u := c.catch(moves)
		c.failOn(first)
		time.Sleep(17 * time.Second)
		b.must(u.land())
		b.w.end("lease-2")
		time.Sleep(3 * time.Second)
		b.valid(h, false)
		b.is(s.Err(), ErrExpired)
		b.close(s)
	})
}

// The read before a move detects a key that was lost, and the other keys move.
func TestP20LostKeyDoesNotMove(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.mover()
		h, gone := b.hold(s, "leader"), b.hold(s, "gone")
		_, err := b.w.apply(Txn{Then: []Write{Delete("gone")}}, true)
		b.must(err)
		c.failOn(s.Lease())
		time.Sleep(time.Minute)
		b.valid(h, true)
		b.is(gone.Err(), ErrLost)
		if _, found := b.w.get("gone"); found {
			b.Fatal("written back")
		}
		b.close(s)
	})
}

// A key that changes between reading and moving is read again.
func TestP20ValueChangesMeanwhile(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.mover()
		h := b.hold(s, "leader")
		first := s.Lease()
		c.hook(func() {
			c.onGet = func(_ context.Context, _ string, do func() (Entry, error)) (Entry, error) {
				e, err := do()
				c.hook(func() { c.onGet = nil })
				_, werr := b.w.apply(Txn{If: []Cond{h.Guard()}, Then: []Write{PutLeased("leader", []byte("young"), first)}}, true)
				b.must(werr)
				return e, err
			}
		})
		c.failOn(first)
		time.Sleep(time.Minute)
		b.must(h.Confirm(b.Context()))
		if e, _ := b.w.get("leader"); string(e.Value) != "young" || e.Lease == first {
			b.Fatalf("%+v", e)
		}
		if b.w.granted != 2 {
			b.Errorf("%d leases were granted for one move", b.w.granted-1)
		}
		b.close(s)
	})
}

// If commits fail too, nothing changes and no lease is left behind.
func TestP20CommitsFailToo(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.mover()
		h := b.hold(s, "leader")
		refuseAll(c.client)
		c.hook(func() {
			c.onCommit = func(context.Context, Txn, func() (Revision, error)) (Revision, error) { return 0, errDown() }
		})
		time.Sleep(20 * time.Second)
		b.valid(h, true)
		c.hook(func() { c.onRenew, c.onCommit = nil, nil })
		time.Sleep(20 * time.Second)
		b.must(h.Confirm(b.Context()))
		if n := b.w.live(); n != 1 {
			b.Fatalf("%d leases", n)
		}
		b.close(s)
	})
}

// A Confirm that waits while the keys move is answered from a renewal of the new lease.
func TestP20ConfirmDuringAMove(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.mover()
		h := b.hold(s, "leader")
		first := s.Lease()
		var answered atomic.Int64
		c.hook(func() {
			c.onRenew = func(ctx context.Context, l LeaseID, do func() (Renewal, error)) (Renewal, error) {
				if l == first {
					time.Sleep(3 * time.Second)
					return Renewal{}, errDown()
				}
				time.Sleep(time.Second)
				answered.Add(1)
				return do()
			}
		})
		c.hook(func() {
			c.onGet = func(_ context.Context, _ string, do func() (Entry, error)) (Entry, error) {
				time.Sleep(2 * time.Second)
				return do()
			}
		})
		// The renewals of the old lease fail at 13 s, 16 s and 19 s; the keys
		// move between the last two.
		time.Sleep(15 * time.Second)
		b.must(h.Confirm(b.Context()))
		if s.Lease() == first || answered.Load() == 0 {
			b.Fatal("confirmed without a renewal of the new lease")
		}
		b.close(s)
	})
}

// P20: while the move is unsettled the earlier deadline counts, also if it is that of
// the spare lease, because the keys may be bound to it.
func TestP20TheEarlierDeadlineCounts(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.mover()
		h := b.hold(s, "leader")
		c.hook(func() { c.blocked = true })
		u := c.catch(moves)
		c.failOn(s.Lease())
		time.Sleep(17 * time.Second)
		c.failOn("lease-2")
		time.Sleep(3 * time.Second)
		b.must(u.land())
		b.watch(h, 30*time.Second)
		b.valid(h, false)
		b.is(s.Err(), ErrExpired)
		b.close(s)
	})
}

// A spare lease that breaks the Timing is refused like the first lease.
func TestP20ShortSpareIsRefused(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.mover()
		h := b.hold(s, "leader")
		first := s.Lease()
		c.hook(func() { c.ttl = 12 * time.Second })
		c.failOn(first)
		time.Sleep(25 * time.Second)
		if s.Lease() != first || b.w.granted < 2 || b.w.live() != 1 {
			b.Fatalf("lease %s, %d granted, %d alive", s.Lease(), b.w.granted, b.w.live())
		}
		c.hook(func() { c.onRenew = nil })
		b.must(h.Confirm(b.Context()))
		b.close(s)
	})
}
