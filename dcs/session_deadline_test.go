package dcs

import (
	"context"
	"testing"
	"time"
)

// P4: an answer that arrives while the machine resumes after the deadline revives
// nothing, although no timer has fired yet and From + TTL lies ahead.
func TestP4RenewalAnsweredAfterASuspendRevivesNothing(t *testing.T) {
	sleep := suspend(t, 0)
	inTime(t, func(b *bench) {
		c, s := b.actor()
		h := b.hold(s, "leader")
		c.hook(func() {
			c.onRenew = func(_ context.Context, _ LeaseID, do func() (Renewal, error)) (Renewal, error) {
				c.hook(func() { c.onRenew = nil })
				r, err := do()
				sleep(25 * time.Second) // 10 s to 35 s; the deadline is at 29.4 s
				return r, err
			}
		})
		time.Sleep(10100 * time.Millisecond)
		b.valid(h, false)
		b.is(s.Err(), ErrExpired)
		b.close(s)
	})
}

// P16: a lock that was taken before a suspend and answered after the deadline does not
// become a Hold, although no timer has fired yet.
func TestP16AcquireAnsweredAfterASuspend(t *testing.T) {
	sleep := suspend(t, 0)
	inTime(t, func(b *bench) {
		c, s := b.actor()
		c.hook(func() {
			c.onCommit = func(_ context.Context, _ Txn, do func() (Revision, error)) (Revision, error) {
				rev, err := do()
				sleep(30 * time.Second)
				return rev, err
			}
		})
		_, err := s.TryAcquire(b.Context(), "leader", nil)
		b.is(err, ErrExpired)
		b.is(s.Err(), ErrExpired)
		b.close(s)
	})
}

// P16: a lock that was answered after Close does not become a Hold either.
func TestP16AcquireAnsweredAfterClose(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		c.hook(func() {
			c.onCommit = func(_ context.Context, _ Txn, do func() (Revision, error)) (Revision, error) {
				rev, err := do()
				s.end(&Error{Op: "Close", Kind: ErrReleased})
				return rev, err
			}
		})
		_, err := s.TryAcquire(b.Context(), "leader", nil)
		b.is(err, ErrReleased)
		b.close(s)
	})
}

// P3: no attempt, neither a renewal nor a move, gets more time than the session has. A
// backend divides that time among its servers.
func TestP3NoAttemptOutlivesTheDeadline(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.mover()
		latest := map[string]time.Time{}
		note := func(ctx context.Context, call string) {
			c.hook(func() {
				if at, ok := ctx.Deadline(); !ok || at.After(latest[call]) {
					latest[call] = at
				}
			})
		}
		c.hook(func() {
			c.onRenew = func(ctx context.Context, _ LeaseID, _ func() (Renewal, error)) (Renewal, error) {
				note(ctx, "Renew")
				return Renewal{}, errDown()
			}
			c.onGrant = func(ctx context.Context, _ func() (Lease, Renewal, error)) (Lease, Renewal, error) {
				note(ctx, "Grant")
				return nil, Renewal{}, errDown()
			}
		})
		end := time.Now().Add(-s.Deadline().Elapsed())
		time.Sleep(time.Until(end))
		b.is(s.Err(), ErrExpired)
		for _, call := range []string{"Renew", "Grant"} {
			if !latest[call].Equal(end) {
				b.Errorf("the last %s may take until %v after the deadline", call, latest[call].Sub(end))
			}
		}
		b.close(s)
	})
}
