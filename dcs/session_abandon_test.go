package dcs

import (
	"context"
	"testing"
	"time"
)

// An abandoned session leaves its keys until its lease expires, also if it is closed.
func TestAbandonedSessionDeletesNothing(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		h := b.hold(s, "leader")
		lease, sent := s.Lease(), c.count("")
		s.Abandon()
		b.valid(h, false)
		b.is(h.Err(), ErrReleased)
		b.is(s.Err(), ErrReleased)
		if !isDone(h.Done()) || !isDone(s.Done()) || s.State() != Lost {
			b.Fatal("the Hold has not ended")
		}
		b.is(h.Release(b.Context()), ErrReleased)
		b.is(s.Close(b.Context()), ErrReleased)
		b.is(s.Close(b.Context()), ErrReleased)
		s.Abandon()
		time.Sleep(29 * time.Second)
		if _, found := b.w.get("leader"); !found || c.count("") != sent || c.revoked(lease) != 0 || c.renewed(lease) != 0 {
			b.Fatalf("found %v, %d writes more, %d revokes, %d renewals", found, c.count("")-sent, c.revoked(lease), c.renewed(lease))
		}
		time.Sleep(2 * time.Second)
		if _, found := b.w.get("leader"); found {
			b.Error("renewed after Abandon")
		}
	})
}

// A lost session that is abandoned within its margin revokes nothing.
func TestAbandonAfterLoss(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		c.hook(func() {
			c.onRenew = func(_ context.Context, _ LeaseID, do func() (Renewal, error)) (Renewal, error) {
				_, _ = do() // the store renews the lease, and the answers are lost
				return Renewal{}, errDown()
			}
		})
		time.Sleep(29400 * time.Millisecond)
		b.is(s.Err(), ErrExpired)
		s.Abandon()
		time.Sleep(5 * time.Second)
		if b.w.live() != 1 || c.revoked(s.Lease()) != 0 {
			b.Error("the lease was revoked")
		}
		b.is(s.Err(), ErrExpired)
		b.is(s.Close(b.Context()), ErrReleased)
	})
}

func TestAbandonAfterClose(t *testing.T) {
	inTime(t, func(b *bench) {
		s := b.plain()
		b.hold(s, "leader")
		b.close(s)
		s.Abandon()
		b.close(s)
		if b.w.live() != 0 {
			b.Error("the lease is left")
		}
	})
}

// A Release that waits for a silent store and the Close after it together take one
// budget.
func TestReleaseAndCloseSpendOneBudget(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		h, other := b.hold(s, "leader"), b.hold(s, "other")
		c.silence()
		start := time.Now()
		b.is(h.Release(b.Context()), ErrUnavailable)
		if d := time.Since(start); d != 10*time.Second {
			b.Errorf("Release took %v", d)
		}
		b.is(s.Close(b.Context()), ErrUnavailable)
		if d := time.Since(start); d > 10*time.Second+100*time.Millisecond {
			b.Errorf("Release and Close took %v", d)
		}
		b.valid(other, false)
		c.hook(func() { c.onCommit, c.onRevoke = nil, nil })
		time.Sleep(10 * time.Second)
		if _, found := b.w.get("other"); found || b.w.live() != 0 {
			b.Error("the deletion did not go on in the background")
		}
		b.close(s)
	})
}

// A Close after a completed Release has its whole budget.
func TestCloseAfterACompleteRelease(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		h := b.hold(s, "leader")
		b.must(h.Release(b.Context()))
		time.Sleep(time.Second)
		c.silence()
		start := time.Now()
		b.is(s.Close(b.Context()), ErrUnavailable)
		if d := time.Since(start); d != 10*time.Second {
			b.Errorf("Close took %v", d)
		}
	})
}

// silence makes every Commit and Revoke hang.
func (c *settling) silence() {
	c.hook(func() {
		c.onCommit = func(ctx context.Context, _ Txn, _ func() (Revision, error)) (Revision, error) {
			<-ctx.Done()
			return 0, &Error{Kind: ErrUnavailable, Err: ctx.Err()}
		}
		c.onRevoke = func(ctx context.Context, _ LeaseID, _ func() error) error {
			<-ctx.Done()
			return ctx.Err()
		}
	})
}
