package dcs

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"
)

// P18: a Hold is one incarnation of its key. Another incarnation under the session's
// own lease is not the lock that was taken.
func TestP18AnotherIncarnationIsLost(t *testing.T) {
	inTime(t, func(b *bench) {
		_, s := b.actor()
		h := b.hold(s, "leader")
		for _, w := range []Write{Delete("leader"), PutLeased("leader", nil, s.Lease())} {
			_, err := b.w.apply(Txn{Then: []Write{w}}, false)
			b.must(err)
		}
		b.is(h.Confirm(b.Context()), ErrLost)
		b.is(h.Err(), ErrLost)
		b.close(s)
	})
}

// P16: an answer counts only for the lease that its attempt carried.
func TestP16NoHoldUnderAnotherLease(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		lease, _, err := c.Grant(b.Context(), 30*time.Second)
		b.must(err)
		earlier := &claim{key: "leader", lease: &leaseState{Lease: lease}, done: make(chan struct{})}
		_, err = s.adopt(earlier, 1)
		b.is(err, ErrExpired)
		s.leaseLost(earlier.lease, &Error{Kind: ErrLost})
		b.must(s.Err())
		b.close(s)
	})
}

// moved returns a session that has moved to its second lease, and the first one.
func (b *bench) moved() (*settling, *Session, LeaseID) {
	b.Helper()
	c, s := b.mover()
	first := s.Lease()
	c.failOn(first)
	time.Sleep(time.Minute)
	if s.Lease() == first {
		b.Fatal("no move was made")
	}
	return c, s, first
}

// P11, P16: a key on a lease that the session has left was not written by an attempt
// that carried the present lease.
func TestP11ReadBackUnderAnEarlierLease(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s, first := b.moved()
		c.hook(func() {
			c.onCommit = func(context.Context, Txn, func() (Revision, error)) (Revision, error) {
				return 0, &Error{Kind: ErrAmbiguous, Fenced: true}
			}
			c.onGet = func(_ context.Context, key string, _ func() (Entry, error)) (Entry, error) {
				return Entry{Key: key, Lease: first, Created: 1, Modified: 1}, nil
			}
		})
		_, err := s.TryAcquire(b.Context(), "leader", nil)
		b.is(err, ErrConflict)
		b.close(s)
	})
}

// P20: once the keys have moved, an answer about the old lease does not concern the
// session.
func TestP20OldLeaseIsAnsweredLost(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.mover()
		h := b.hold(s, "leader")
		first := s.Lease()
		var lost atomic.Int64
		c.hook(func() {
			c.onGet = func(_ context.Context, _ string, do func() (Entry, error)) (Entry, error) {
				time.Sleep(time.Second) // a renewal of the old lease starts meanwhile
				return do()
			}
			c.onRenew = func(ctx context.Context, l LeaseID, do func() (Renewal, error)) (Renewal, error) {
				for l == first && s.Lease() == first && ctx.Err() == nil {
					time.Sleep(100 * time.Millisecond)
				}
				if l == first && ctx.Err() != nil {
					return Renewal{}, ctx.Err()
				}
				r, err := do()
				if l == first && errors.Is(err, ErrLost) {
					lost.Add(1)
				}
				return r, err
			}
		})
		b.watch(h, time.Minute)
		if lost.Load() == 0 {
			b.Fatal("no renewal of the old lease was answered after the move")
		}
		b.valid(h, true)
		b.must(h.Confirm(b.Context()))
		b.close(s)
	})
}
