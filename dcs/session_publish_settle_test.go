package dcs

import (
	"context"
	"testing"
	"time"
)

// P19: a first Publish that turns out to have been applied was the first one. The
// next one takes nothing over.
func TestP19SettledFirstPublishIsNoSecondTakeover(t *testing.T) {
	for name, fenced := range map[string]bool{"settled": false, "fenced": true} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(b *bench) {
				c, s := b.actor()
				c.hook(func() { c.blocked = true })
				u := c.catch(publishes)
				_, err := s.Publish(b.Context(), "members/a", []byte("first"))
				b.is(err, ErrAmbiguous)
				b.must(u.land())
				c.hook(func() { c.blocked, c.fenced = false, fenced })
				time.Sleep(5 * time.Second)
				other := b.plain()
				_, err = other.Publish(b.Context(), "members/a", []byte("other"))
				b.must(err)
				_, err = s.Publish(b.Context(), "members/a", []byte("back"))
				b.is(err, ErrConflict)
				b.member("other", other.Lease())
				b.close(s)
				b.close(other)
			})
		})
	}
}

// P19: after a Publish that cannot be settled, renewals still check a key that the
// session had published before.
func TestP19TakeoverAfterAFencedPublish(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		_, err := s.Publish(b.Context(), "members/a", []byte("one"))
		b.must(err)
		c.hook(func() { c.fenced = true })
		c.catch(publishes)
		_, err = s.Publish(b.Context(), "members/a", []byte("two"))
		b.is(err, ErrAmbiguous)
		time.Sleep(time.Second)
		other := b.plain()
		_, err = other.Publish(b.Context(), "members/a", []byte("other"))
		b.must(err)
		time.Sleep(11 * time.Second)
		if n := b.seen(func(e StateEvent) bool { return e.Displaced && e.Lease == s.Lease() }); n != 1 {
			b.Errorf("%d takeovers were reported", n)
		}
		b.close(s)
		b.close(other)
	})
}

// P20: a key that already has the value, on a lease that the session has left, is
// written again.
func TestPublishLeavesNoKeyOnAnEarlierLease(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s, first := b.moved()
		_, err := b.w.apply(Txn{Then: []Write{Put("members/a", []byte("one"))}}, true)
		b.must(err)
		c.hook(func() {
			c.onGet = func(_ context.Context, _ string, do func() (Entry, error)) (Entry, error) {
				e, err := do()
				e.Lease = first // like a store that is slow to delete the keys of a lease
				return e, err
			}
		})
		_, err = s.Publish(b.Context(), "members/a", []byte("one"))
		b.must(err)
		b.member("one", s.Lease())
		b.close(s)
	})
}
