package dcs

import (
	"context"
	"testing"
	"time"
)

// P18: only a conflict says that an incarnation is gone. A Release that was
// refused for a dead lease is repeated.
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
