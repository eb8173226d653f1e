package dcs

import (
	"context"
	"errors"
	"testing"
	"time"
)

// P17: a new Acquire waits until the earlier one is settled, and then takes the lock.
func TestP17AcquireWaitsForTheSettling(t *testing.T) {
	for _, late := range []bool{false, true} {
		inTime(t, func(b *bench) {
			c, s := b.actor()
			c.blocked = true
			u := c.catch(anyTxn)
			_, err := s.Acquire(b.Context(), "leader", nil)
			b.is(err, ErrAmbiguous)
			time.AfterFunc(5*time.Second, func() {
				if late {
					_ = u.land()
				}
				c.hook(func() { c.blocked = false })
			})
			h, err := s.Acquire(b.Context(), "leader", nil)
			b.must(err)
			if late && h.Token() == u.rev {
				b.Fatal("the late success was adopted")
			}
			if u.land() == nil {
				b.Fatal("the settled attempt was still applied")
			}
			time.Sleep(time.Minute)
			b.valid(h, true)
			b.close(s)
		})
	}
}

// P17: if the store cannot settle, an ambiguous Acquire ends the session, and the end
// of the lease resolves the attempt.
func TestP17AmbiguousAcquireWithoutSettlerEndsTheSession(t *testing.T) {
	inTime(t, func(b *bench) {
		c := &client{w: b.w}
		s := b.session(c)
		h := b.hold(s, "other")
		u := c.catch(anyTxn)
		_, err := s.TryAcquire(b.Context(), "leader", nil)
		b.is(err, ErrExpired)
		b.valid(h, false)
		b.is(s.Err(), ErrExpired)
		time.Sleep(time.Second)
		if b.w.live() != 0 {
			b.Fatal("the lease was not revoked")
		}
		b.is(u.land(), ErrLost)
	})
}

// P11: an attempt that cannot be applied any more is read back. If the key is bound to
// the attempt's lease, the attempt succeeded.
func TestP11FencedAcquireIsReadBack(t *testing.T) {
	for _, x := range []struct {
		name  string
		lands bool
		other bool
		want  error
	}{{"landed", true, false, nil}, {"another's", false, true, ErrConflict}, {"absent", false, false, ErrUnavailable}} {
		t.Run(x.name, func(t *testing.T) {
			inTime(t, func(b *bench) {
				c, s := b.actor()
				other := b.plain()
				c.onCommit = func(_ context.Context, _ Txn, do func() (Revision, error)) (Revision, error) {
					c.hook(func() { c.onCommit = nil })
					if x.lands {
						_, _ = do()
					}
					if x.other {
						b.hold(other, "leader")
					}
					return 0, &Error{Kind: ErrAmbiguous, Fenced: true}
				}
				h, err := s.TryAcquire(b.Context(), "leader", nil)
				if x.want != nil {
					b.is(err, x.want)
					if errors.Is(err, ErrAmbiguous) {
						b.Fatal("the reading was definite")
					}
				} else {
					b.must(err)
					if e, _ := b.w.get("leader"); e.Created != h.Token() {
						b.Fatalf("token %d, created %d", h.Token(), e.Created)
					}
				}
				b.close(s)
				b.close(other)
			})
		})
	}
}

// P11 and P16 together: a lock that is found after Acquire has returned is released.
func TestP11ReadBackInTheBackground(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		c.onCommit = func(_ context.Context, _ Txn, do func() (Revision, error)) (Revision, error) {
			c.hook(func() { c.onCommit = nil })
			_, _ = do()
			return 0, &Error{Kind: ErrAmbiguous, Fenced: true}
		}
		c.onGet = func(context.Context, string, func() (Entry, error)) (Entry, error) { return Entry{}, errDown() }
		_, err := s.TryAcquire(b.Context(), "leader", nil)
		b.is(err, ErrAmbiguous)
		time.Sleep(5 * time.Second)
		if _, found := b.w.get("leader"); !found {
			b.Fatal("deleted without proof")
		}
		c.hook(func() { c.onGet = nil })
		time.Sleep(5 * time.Second)
		if _, found := b.w.get("leader"); found {
			b.Fatal("a lock without an owner is left")
		}
		b.close(s)
	})
}

// A Settler's final ErrAmbiguous leads to the read too.
func TestP11SettledAsFenced(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		c.blocked = true
		u := c.catch(anyTxn)
		_, err := s.TryAcquire(b.Context(), "leader", nil)
		b.is(err, ErrAmbiguous)
		b.must(u.land())
		c.hook(func() { c.blocked, c.fenced = false, true })
		time.Sleep(5 * time.Second)
		if _, found := b.w.get("leader"); found {
			b.Fatal("a lock without an owner is left")
		}
		b.close(s)
	})
}

// P14: a Commit bound to the lease is refused because the lease is gone.
func TestP14DeadLeaseEndsTheSession(t *testing.T) {
	inTime(t, func(b *bench) {
		_, s := b.actor()
		h := b.hold(s, "other")
		b.w.end(s.Lease())
		_, err := s.TryAcquire(b.Context(), "leader", nil)
		b.is(err, ErrLost)
		b.valid(h, false)
		b.is(h.Err(), ErrLost)
		b.close(s)
	})
}

// P16: a success has no effect if the session has ended by then.
func TestP16SuccessAfterTheDeadline(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		refuseAll(c.client)
		c.onCommit = func(_ context.Context, _ Txn, do func() (Revision, error)) (Revision, error) {
			rev, err := do()
			time.Sleep(2 * time.Second) // past the deadline, ignoring the context
			return rev, err
		}
		time.Sleep(28 * time.Second)
		h, err := s.TryAcquire(b.Context(), "leader", nil)
		b.is(err, ErrExpired)
		if h != nil {
			b.Fatal("a Hold of a lost session")
		}
		time.Sleep(time.Second)
		if _, found := b.w.get("leader"); found {
			b.Fatal("left behind")
		}
	})
}

// If the context ends while the write is under way, the outcome is ambiguous, and a
// lock that was taken after all is released.
func TestAcquireCutShortWhileCommitting(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		u := &ambiguousCommit{}
		c.onCommit = func(ctx context.Context, t Txn, do func() (Revision, error)) (Revision, error) {
			if deletes(t) {
				return do()
			}
			u.do = do
			<-ctx.Done()
			_ = u.land()
			return 0, &Error{Kind: ErrAmbiguous, Attempt: u, Err: ctx.Err()}
		}
		ctx, cancel := context.WithTimeout(b.Context(), 3*time.Second)
		defer cancel()
		_, err := s.Acquire(ctx, "leader", nil)
		b.is(err, ErrAmbiguous)
		b.is(err, context.DeadlineExceeded)
		time.Sleep(time.Second)
		if _, found := b.w.get("leader"); found {
			b.Fatal("the lock was not released after the late success")
		}
		b.close(s)
	})
}

// A silent store ends the waiting.
func TestAcquireOnASilentStore(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		c.onCommit = func(ctx context.Context, _ Txn, _ func() (Revision, error)) (Revision, error) {
			<-ctx.Done()
			return 0, &Error{Kind: ErrUnavailable, Err: ctx.Err()}
		}
		start := time.Now()
		_, err := s.Acquire(b.Context(), "leader", nil)
		b.is(err, ErrUnavailable)
		if d := time.Since(start); d != 10*time.Second {
			b.Fatalf("after %v", d)
		}
		b.close(s)
	})
}

func TestReleaseAmbiguous(t *testing.T) {
	for _, x := range []struct {
		name           string
		settles, lands bool
	}{{"settled as done", true, true}, {"settled as not done", true, false}, {"not settled, landed", false, true}, {"not settled, not landed", false, false}} {
		t.Run(x.name, func(t *testing.T) {
			inTime(t, func(b *bench) {
				c := &client{w: b.w}
				var be Backend = c
				if x.settles {
					be = &settling{client: c}
				}
				s := b.session(be)
				h := b.hold(s, "leader")
				u := c.catch(deletes)
				b.is(h.Release(b.Context()), ErrAmbiguous)
				b.valid(h, false)
				if x.lands {
					_ = u.land()
				}
				b.must(h.Release(b.Context()))
				next := b.hold(s, "leader")
				_ = u.land()
				b.must(next.Confirm(b.Context()))
				b.close(s)
			})
		})
	}
}

// A Release that the store refused is repeated.
func TestReleaseGoesOnInTheBackground(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		h := b.hold(s, "leader")
		c.hook(func() {
			c.onCommit = func(context.Context, Txn, func() (Revision, error)) (Revision, error) { return 0, errDown() }
		})
		b.is(h.Release(b.Context()), ErrUnavailable)
		time.Sleep(time.Minute)
		if n := c.count("leader"); n > 100 {
			b.Fatalf("%d attempts in a minute", n)
		}
		c.hook(func() { c.onCommit = nil })
		time.Sleep(5 * time.Second)
		if _, found := b.w.get("leader"); found {
			b.Fatal("still there")
		}
		b.must(h.Release(b.Context()))
		b.close(s)
	})
}

// An ambiguous Update is settled before the next write of the key. A Release meanwhile
// makes Valid false at once and deletes the key as soon as it can.
func TestReleaseBehindAnAmbiguousUpdate(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		h := b.hold(s, "leader")
		c.hook(func() { c.blocked = true })
		u := c.catch(anyTxn)
		b.is(h.Update(b.Context(), []byte("x")), ErrAmbiguous)
		b.is(h.Update(b.Context(), []byte("y")), ErrUnavailable)
		ctx, cancel := context.WithTimeout(b.Context(), time.Second)
		defer cancel()
		b.is(h.Release(ctx), ErrAmbiguous)
		b.valid(h, false)
		b.is(h.Release(ctx), ErrAmbiguous)
		c.hook(func() { c.blocked = false })
		time.Sleep(5 * time.Second)
		if _, found := b.w.get("leader"); found || u.land() == nil {
			b.Fatal("the Release was dropped, or the Update was applied late")
		}
		b.close(s)
	})
}

// Close and loss leave no attempt behind.
func TestCloseEndsAmbiguousAttempts(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		c.blocked = true
		u := c.catch(anyTxn)
		_, err := s.TryAcquire(b.Context(), "leader", nil)
		b.is(err, ErrAmbiguous)
		b.close(s)
		b.is(u.land(), ErrLost)
	})
}

// A lease that was found dead while settling is a definite failure, so that the key can
// be tried again.
func TestSettledAsLost(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		c.lost = true
		c.catch(anyTxn)
		_, err := s.TryAcquire(b.Context(), "leader", nil)
		b.is(err, ErrAmbiguous)
		time.Sleep(time.Second)
		c.hook(func() {
			if c.settled != 1 {
				b.Errorf("settled %d times", c.settled)
			}
		})
		b.hold(s, "leader")
		b.close(s)
	})
}

// P14: an Update that finds the lease dead ends the session at once.
func TestP14UpdateOnADeadLease(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		h := b.hold(s, "leader")
		c.hook(func() {
			c.onCommit = func(context.Context, Txn, func() (Revision, error)) (Revision, error) {
				return 0, &Error{Kind: ErrLost}
			}
		})
		b.is(h.Update(b.Context(), []byte("new")), ErrLost)
		b.is(s.Err(), ErrLost)
		b.valid(h, false)
		b.close(s)
	})
}
