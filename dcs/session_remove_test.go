package dcs

import (
	"context"
	"testing"
	"time"
)

// P18: only a conflict proves that an incarnation is gone. A Release that was refused
// because of a dead lease is repeated.
func TestReleaseRefusedForADeadLease(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		h := b.hold(s, "leader")
		c.hook(func() {
			c.onCommit = func(context.Context, Txn, func() (Revision, error)) (Revision, error) {
				c.hook(func() { c.onCommit = nil })
				return 0, &Error{Kind: ErrLost}
			}
		})
		b.is(h.Release(b.Context()), ErrLost)
		time.Sleep(5 * time.Second)
		if _, found := b.w.get("leader"); found {
			b.Fatal("the lock was not deleted")
		}
		b.close(s)
	})
}

// P11: a deletion that cannot be applied any more may not have been applied, and is
// repeated. One that was settled as applied is not.
func TestReleaseAfterSettling(t *testing.T) {
	for name, x := range map[string]struct {
		lands, fenced bool
		deletes       int
	}{"fenced": {false, true, 2}, "landed": {true, false, 1}} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(b *bench) {
				c, s := b.actor()
				h := b.hold(s, "leader")
				c.hook(func() { c.blocked, c.fenced = true, x.fenced })
				u := c.catch(deletes)
				before := c.count("")
				b.is(h.Release(b.Context()), ErrAmbiguous)
				if x.lands {
					b.must(u.land())
				}
				c.hook(func() { c.blocked = false })
				time.Sleep(10 * time.Second)
				if _, found := b.w.get("leader"); found {
					b.Fatal("the lock was not deleted")
				}
				if n := c.count("") - before; n != x.deletes {
					b.Errorf("deleted %d times, want %d", n, x.deletes)
				}
				b.must(h.Release(b.Context()))
				if n := c.count("") - before; n != x.deletes {
					b.Error("a lock that is gone was deleted again")
				}
				b.close(s)
			})
		})
	}
}

// Releases that wait for an ambiguous Update share one deletion, which leaves the key
// free for the next Acquire.
func TestReleasesShareOneRemoval(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		h := b.hold(s, "leader")
		c.hook(func() { c.blocked = true })
		c.catch(anyTxn)
		b.is(h.Update(b.Context(), nil), ErrAmbiguous)
		for range 3 {
			b.is(h.Release(b.Context()), ErrAmbiguous)
		}
		before := c.count("")
		c.hook(func() { c.blocked = false })
		time.Sleep(10 * time.Second)
		if n := c.count("") - before; n != 1 {
			b.Errorf("deleted %d times", n)
		}
		b.hold(s, "leader")
		b.close(s)
	})
}

// A Release that waits for an earlier write stops waiting when the session ends.
func TestReleaseDoesNotOutwaitTheSession(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		h := b.hold(s, "leader")
		c.hook(func() {
			c.onCommit = func(context.Context, Txn, func() (Revision, error)) (Revision, error) {
				c.hook(func() { c.onCommit = nil })
				time.Sleep(20 * time.Second)
				return 0, errDown()
			}
		})
		go func() { _ = h.Update(context.Background(), nil) }()
		time.Sleep(time.Second)
		time.AfterFunc(time.Second, func() { s.end(&Error{Kind: ErrExpired}) })
		start := time.Now()
		b.must(h.Release(b.Context()))
		if d := time.Since(start); d != time.Second {
			b.Errorf("returned after %v", d)
		}
		b.close(s)
	})
}

// A Release of a session that has ended deletes the key itself, because no other code
// would do so before the lease ends.
func TestReleaseAfterTheEndIsAnswered(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		h := b.hold(s, "leader")
		c.hook(func() {
			c.onCommit = func(context.Context, Txn, func() (Revision, error)) (Revision, error) {
				time.Sleep(20 * time.Second)
				return 0, errDown()
			}
		})
		go func() { _ = h.Update(context.Background(), nil) }()
		time.Sleep(time.Second)
		s.end(&Error{Kind: ErrExpired})
		c.hook(func() { c.onCommit = nil })
		b.must(h.Release(b.Context()))
		b.close(s)
	})
}

// A released Hold has no time left, and its key is not written any more.
func TestReleasedHoldIsOver(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		h := b.hold(s, "leader")
		b.must(h.Release(b.Context()))
		sent := c.count("")
		if left := h.Remaining(); left != 0 {
			b.Errorf("%v remain", left)
		}
		b.is(h.Update(b.Context(), nil), ErrReleased)
		if c.count("") != sent {
			b.Error("a released lock was written")
		}
		b.close(s)
	})
}

// A conflict that carries the own incarnation does not mean that the lock is lost.
func TestUpdateRefusedUnderTheOwnIncarnation(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		h := b.hold(s, "leader")
		c.hook(func() {
			c.onCommit = func(context.Context, Txn, func() (Revision, error)) (Revision, error) {
				c.hook(func() { c.onCommit = nil })
				e, _ := b.w.get("leader")
				return 0, &Error{Kind: ErrConflict, Current: &e}
			}
		})
		b.is(h.Update(b.Context(), nil), ErrConflict)
		b.valid(h, true)
		b.must(h.Confirm(b.Context()))
		b.close(s)
	})
}
