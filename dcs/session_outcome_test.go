package dcs

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// An Update or a Publish with an ambiguous outcome stays ambiguous although the lease
// is lost meanwhile, because other clients may have read its value.
func TestAmbiguousWriteOfALostSession(t *testing.T) {
	for name, write := range map[string]func(b *bench, s *Session, h *Hold) error{
		"Update": func(b *bench, _ *Session, h *Hold) error { return h.Update(b.Context(), []byte("new")) },
		"Publish": func(b *bench, s *Session, _ *Hold) error {
			_, err := s.Publish(b.Context(), "members/a", []byte("new"))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(b *bench) {
				c, s := b.actor()
				h := b.hold(s, "leader")
				c.hook(func() {
					c.onCommit = func(_ context.Context, _ Txn, do func() (Revision, error)) (Revision, error) {
						u := &ambiguousCommit{do: do}
						b.must(u.land())
						s.end(&Error{Op: "Renew", Kind: ErrLost})
						return 0, u.err()
					}
				})
				err := write(b, s, h)
				b.is(err, ErrAmbiguous)
				b.is(s.Err(), ErrLost)
				b.is(h.Err(), ErrLost)
				b.is(write(b, s, h), ErrLost) // nothing is written any more
				b.close(s)
			})
		})
	}
}

// Close of a Session whose Store was closed first cannot confirm the end.
func TestSessionCloseAfterStoreClose(t *testing.T) {
	inTime(t, func(b *bench) {
		_, s := b.actor()
		h := b.hold(s, "leader")
		b.must(s.store.Close())
		b.is(h.Err(), ErrClosed)
		for range 2 {
			b.is(s.Close(b.Context()), ErrClosed)
		}
		if _, found := b.w.get("leader"); !found {
			b.Error("the lock is gone")
		}
	})
	inTime(t, func(b *bench) {
		_, s := b.actor()
		b.close(s)
		b.must(s.store.Close())
		b.must(s.Close(b.Context())) // the end was confirmed before
	})
}

// Publish that runs out of time while other clients write the key reports no conflict,
// because no session took the key over.
func TestPublishRunsOutOfTimeInContention(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		c.hook(func() {
			c.onCommit = func(_ context.Context, t Txn, _ func() (Revision, error)) (Revision, error) {
				time.Sleep(time.Second)
				return 0, &Error{Kind: ErrConflict}
			}
		})
		_, err := s.Publish(b.Context(), "members/a", nil)
		b.is(err, ErrUnavailable)
		b.is(err, context.DeadlineExceeded)
		c.hook(func() { c.onCommit = nil })
		_, err = s.Publish(b.Context(), "members/a", nil)
		b.must(err)
		b.close(s)
	})
}

// A Settler that returns ErrInvalid settles nothing, and would return it again. The
// session must not try for ever.
func TestSettlerThatRefuses(t *testing.T) {
	inTime(t, func(b *bench) {
		c := &refusing{client: &client{w: b.w}}
		s := b.session(c)
		c.catch(anyTxn)
		_, err := s.TryAcquire(b.Context(), "leader", nil)
		b.is(err, ErrUnavailable)
		time.Sleep(time.Second)
		b.is(s.Err(), ErrExpired) // as on a store without a Settler
		b.close(s)
	})
	inTime(t, func(b *bench) {
		c := &refusing{client: &client{w: b.w}}
		s := b.session(c)
		h := b.hold(s, "leader")
		c.catch(deletes)
		b.is(h.Release(b.Context()), ErrAmbiguous)
		time.Sleep(5 * time.Second)
		if _, found := b.w.get("leader"); found {
			b.Error("a released lock is renewed for ever")
		}
		b.hold(s, "leader")
		b.close(s)
	})
}

// refusing is a client whose Settle refuses every attempt.
type refusing struct{ *client }

func (*refusing) Settle(context.Context, *Error) (Revision, error) {
	return 0, &Error{Kind: ErrInvalid}
}

// NewSession returns by its context. A lease that it does not return is revoked in the
// background.
func TestNewSessionReturnsByItsContext(t *testing.T) {
	inTime(t, func(b *bench) {
		c := &client{w: b.w, ttl: 12 * time.Second} // too short for the Timing
		c.onRevoke = func(ctx context.Context, _ LeaseID, _ func() error) error {
			<-ctx.Done()
			return ctx.Err()
		}
		st := b.store(c)
		ctx, cancel := context.WithTimeout(b.Context(), 200*time.Millisecond)
		defer cancel()
		start := time.Now()
		_, err := st.NewSession(ctx, SessionOptions{})
		b.is(err, ErrInvalid)
		if d := time.Since(start); d > 200*time.Millisecond {
			b.Errorf("returned after %v", d)
		}
		synctest.Wait()
		c.hook(func() { c.onRevoke = nil })
		_, err = st.NewSession(ctx, SessionOptions{})
		b.is(err, ErrInvalid)
		synctest.Wait()
		if n := b.w.live(); n != 1 {
			b.Errorf("%d leases are live, want the one whose revocation hangs", n)
		}
	})
}

// Close with a context that has ended still deletes the lock, in the background and
// within one budget.
func TestCloseWithAnEndedContext(t *testing.T) {
	inTime(t, func(b *bench) {
		_, s := b.actor()
		h := b.hold(s, "leader")
		ctx, cancel := context.WithCancel(b.Context())
		cancel()
		err := s.Close(ctx)
		b.valid(h, false)
		if err != nil {
			b.is(err, ErrUnavailable)
			b.is(err, context.Canceled)
		}
		synctest.Wait()
		if _, found := b.w.get("leader"); found || b.w.live() != 0 {
			b.Error("the lock stays until the lease expires")
		}
		b.close(s)
	})
	inTime(t, func(b *bench) {
		c, s := b.actor()
		b.hold(s, "leader")
		c.hook(func() {
			c.onCommit = func(ctx context.Context, _ Txn, _ func() (Revision, error)) (Revision, error) {
				<-ctx.Done()
				return 0, ctx.Err()
			}
			c.onRevoke = func(ctx context.Context, _ LeaseID, _ func() error) error { <-ctx.Done(); return ctx.Err() }
		})
		ctx, cancel := context.WithTimeout(b.Context(), time.Second)
		defer cancel()
		start := time.Now()
		b.is(s.Close(ctx), ErrUnavailable)
		if d := time.Since(start); d != time.Second {
			b.Errorf("returned after %v", d)
		}
		start = time.Now()
		b.is(s.Close(b.Context()), ErrUnavailable) // shares the shutdown under way
		if d := time.Since(start); d != 9*time.Second {
			b.Errorf("returned after %v more, want the rest of one budget", d)
		}
		c.hook(func() { c.onCommit, c.onRevoke = nil, nil })
		b.must(s.Close(b.Context())) // tries again
		if b.w.live() != 0 {
			b.Error("the lease was not revoked")
		}
	})
}
