package dcs

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// P4: the deadline of a session that has ended does not move any more.
func TestP4AnEndedSessionIsNotLive(t *testing.T) {
	inTime(t, func(b *bench) {
		_, s := b.actor()
		s.end(&Error{Kind: ErrLost})
		s.mu.Lock()
		defer s.mu.Unlock()
		s.lease.until = s.lease.until.Add(time.Hour)
		if s.advance() || s.live() || s.remaining() != 0 {
			b.Fatalf("%v remain of a session that has ended", s.remaining())
		}
	})
}

// Deadline of a session that has ended returns the last deadline.
func TestDeadlineOfAnEndedSession(t *testing.T) {
	inTime(t, func(b *bench) {
		_, s := b.actor()
		granted := s.Granted()
		time.Sleep(25 * time.Second)
		last := s.Deadline()
		b.close(s)
		if after := s.Deadline(); after.Sub(last) != 0 {
			b.Errorf("Close moved the deadline by %v", after.Sub(last))
		}
		if got := s.Granted(); got.From.Sub(granted.From) != 20*time.Second || Deadline(got.From, got.TTL) != last {
			b.Errorf("two renewals after %+v the session reports %+v", granted, got)
		}
	})
}

// A failure before a confirmed renewal is not the cause of a later end.
func TestReasonOfTheEndIsTheLastFailure(t *testing.T) {
	sleep := suspend(t, 0)
	inTime(t, func(b *bench) {
		c, s := b.actor()
		outage := errors.New("outage")
		c.hook(func() {
			c.onRenew = func(context.Context, LeaseID, func() (Renewal, error)) (Renewal, error) {
				return Renewal{}, &Error{Kind: ErrUnavailable, Err: outage}
			}
		})
		time.Sleep(11 * time.Second)
		c.hook(func() { c.onRenew = nil })
		time.Sleep(5 * time.Second)
		sleep(time.Minute)
		b.is(s.Err(), ErrExpired)
		if errors.Is(s.Err(), outage) {
			b.Errorf("ended by a suspend, reported as %v", s.Err())
		}
		b.close(s)
	})
}

// A lost session does not revoke its lease before the margin has passed, in which its
// owner has to stop.
func TestLostSessionRevokesAfterTheMargin(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		c.hook(func() {
			c.onRenew = func(_ context.Context, _ LeaseID, do func() (Renewal, error)) (Renewal, error) {
				_, _ = do() // the store renews the lease, and the answers are lost
				return Renewal{}, errDown()
			}
		})
		time.Sleep(29400*time.Millisecond + Margin(30*time.Second) - time.Millisecond)
		b.is(s.Err(), ErrExpired)
		if b.w.live() != 1 {
			b.Fatal("the lease was revoked within the margin")
		}
		time.Sleep(2 * time.Millisecond)
		if b.w.live() != 0 {
			b.Fatal("the lease was not revoked")
		}
		b.close(s)
	})
}

// A lease is revoked once, and never if the store reported it lost.
func TestLeaseIsRevokedOnce(t *testing.T) {
	for name, x := range map[string]struct {
		end     func(b *bench, c *settling, s *Session)
		revokes int
	}{
		"closed": {func(*bench, *settling, *Session) {}, 1},
		"expired": {func(b *bench, c *settling, s *Session) {
			c.hook(func() {
				c.onRevoke = func(_ context.Context, _ LeaseID, do func() error) error {
					time.Sleep(time.Second) // Close must not meet the revoking after the margin
					return do()
				}
			})
			refuseAll(c.client)
			time.Sleep(29400 * time.Millisecond)
			b.is(s.Err(), ErrExpired)
		}, 1},
		"lost": {func(b *bench, _ *settling, s *Session) {
			b.w.end(s.Lease())
			time.Sleep(11 * time.Second)
			b.is(s.Err(), ErrLost)
		}, 0},
		"lost while it is revoked": {func(_ *bench, c *settling, _ *Session) {
			c.hook(func() {
				c.onRevoke = func(context.Context, LeaseID, func() error) error { return &Error{Kind: ErrLost} }
			})
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(b *bench) {
				c, s := b.actor()
				x.end(b, c, s)
				for range 3 {
					b.close(s)
				}
				time.Sleep(time.Minute)
				if n := c.revoked(s.Lease()); n != x.revokes {
					b.Errorf("revoked %d times, want %d", n, x.revokes)
				}
			})
		})
	}
}

// Close deletes the locks, and a later Release sends nothing.
func TestReleaseAfterCloseSendsNothing(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		h := b.hold(s, "leader")
		b.close(s)
		sent := c.count("")
		b.must(h.Release(b.Context()))
		if c.count("") != sent {
			b.Error("the lock was deleted twice")
		}
	})
}

// A session that has ended starts no goroutine and is removed from its Store.
func TestEndedSessionLeavesNothing(t *testing.T) {
	inTime(t, func(b *bench) {
		_, s := b.actor()
		b.close(s)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.spawn(func() {}) {
			b.Error("a goroutine was started after the end")
		}
		if n := len(s.store.ends); n != 0 {
			b.Errorf("the Store keeps %d sessions", n)
		}
	})
}

// Close ends a call that is under way.
func TestCloseEndsCallsUnderWay(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		c.hook(func() {
			c.onGet = func(ctx context.Context, _ string, _ func() (Entry, error)) (Entry, error) {
				<-ctx.Done()
				return Entry{}, ctx.Err()
			}
		})
		time.AfterFunc(time.Second, func() { s.end(&Error{Kind: ErrReleased}) })
		start := time.Now()
		_, err := s.Publish(b.Context(), "members/a", nil)
		b.is(err, ErrReleased)
		if d := time.Since(start); d != time.Second {
			b.Errorf("returned after %v", d)
		}
		b.close(s)
	})
}

// Confirm returns when the session ends, although a renewal still hangs.
func TestConfirmEndsWithTheSession(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		h := b.hold(s, "leader")
		c.hook(func() {
			c.onRenew = func(context.Context, LeaseID, func() (Renewal, error)) (Renewal, error) {
				time.Sleep(20 * time.Second)
				return Renewal{}, errDown()
			}
		})
		time.Sleep(11 * time.Second)
		time.AfterFunc(time.Second, func() { s.end(&Error{Kind: ErrReleased}) })
		start := time.Now()
		b.is(h.Confirm(b.Context()), ErrReleased)
		if d := time.Since(start); d != time.Second {
			b.Errorf("returned after %v", d)
		}
		b.close(s)
	})
}

// A renewal that is answered after Close finds the keys deleted. That is not reported
// as a takeover.
func TestCloseIsNoTakeover(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		_, err := s.Publish(b.Context(), "members/a", nil)
		b.must(err)
		c.hook(func() {
			c.onRenew = func(ctx context.Context, _ LeaseID, _ func() (Renewal, error)) (Renewal, error) {
				<-ctx.Done()
				return Renewal{From: Now(), TTL: 30 * time.Second}, nil
			}
		})
		time.Sleep(11 * time.Second)
		start := time.Now()
		b.close(s)
		if d := time.Since(start); d != 0 {
			b.Errorf("Close waited %v for a renewal", d)
		}
		if n := b.seen(func(e StateEvent) bool { return e.Displaced }); n != 0 {
			b.Errorf("%d takeovers were reported", n)
		}
	})
}

// The lease of a refused NewSession is revoked although the caller's context has ended
// by then.
func TestRefusedGrantIsRevokedWithASpentContext(t *testing.T) {
	inTime(t, func(b *bench) {
		ctx, cancel := context.WithCancel(b.Context())
		c := &client{w: b.w, ttl: 12 * time.Second}
		c.onGrant = func(_ context.Context, do func() (Lease, Renewal, error)) (Lease, Renewal, error) {
			cancel()
			return do()
		}
		_, err := b.store(c).NewSession(ctx, SessionOptions{})
		b.is(err, ErrInvalid)
		synctest.Wait()
		if b.w.live() != 0 {
			b.Error("the lease was not revoked")
		}
	})
}
