package dcs

import (
	"context"
	"testing"
	"time"
)

// unsettleable makes every Commit that matches ambiguous and impossible to settle.
func (c *client) unsettleable(fits func(Txn) bool) {
	c.hook(func() {
		c.onCommit = func(_ context.Context, t Txn, do func() (Revision, error)) (Revision, error) {
			if fits(t) {
				return 0, &Error{Kind: ErrAmbiguous}
			}
			return do()
		}
	})
}

// P20: a write that cannot be settled may be applied at any time, so the keys must not
// move.
func TestP20NoMoveAfterAWriteThatCannotBeSettled(t *testing.T) {
	for name, write := range map[string]func(*Session, *Hold) error{
		"update": func(s *Session, h *Hold) error { return h.Update(context.Background(), []byte("new")) },
		"publish": func(s *Session, _ *Hold) error {
			_, err := s.Publish(context.Background(), "members/a", nil)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(b *bench) {
				c, s := b.mover()
				h := b.hold(s, "leader")
				c.unsettleable(anyTxn)
				b.is(write(s, h), ErrAmbiguous)
				c.hook(func() { c.onCommit = nil })
				refuseAll(c.client)
				time.Sleep(time.Minute)
				b.is(h.Err(), ErrExpired)
				if b.w.granted != 1 {
					b.Fatalf("%d leases were granted for moves", b.w.granted-1)
				}
				b.close(s)
			})
		})
	}
}

// P20: a move that cannot be settled is the last one, and both leases are renewed
// until the end.
func TestP20NoMoveAfterOneThatCannotBeSettled(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.mover()
		h := b.hold(s, "leader")
		first := s.Lease()
		c.unsettleable(moves)
		c.failOn(first)
		time.Sleep(29 * time.Second)
		b.valid(h, true)
		if b.w.granted != 2 || c.renewed("lease-2") == 0 || s.Lease() != first {
			b.Fatalf("%d leases granted, the spare renewed %d times, on lease %s", b.w.granted, c.renewed("lease-2"), s.Lease())
		}
		time.Sleep(time.Second)
		b.is(h.Err(), ErrExpired)
		b.close(s)
	})
}
