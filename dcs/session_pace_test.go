package dcs

import (
	"context"
	"slices"
	"testing"
	"time"
)

// Renewals are sent every LoopWait, counted from sending to sending, no matter how
// slow the store is.
func TestRenewalsCountFromTheirSending(t *testing.T) {
	inTime(t, func(b *bench) {
		c := &settling{client: &client{w: b.w}}
		start := time.Now()
		var sent []time.Duration
		c.onGrant = func(_ context.Context, do func() (Lease, Renewal, error)) (Lease, Renewal, error) {
			l, r, err := do()
			time.Sleep(3 * time.Second)
			return l, r, err
		}
		c.onRenew = func(_ context.Context, _ LeaseID, do func() (Renewal, error)) (Renewal, error) {
			sent = append(sent, time.Since(start))
			time.Sleep(3 * time.Second)
			return do()
		}
		s := b.session(c)
		time.Sleep(35 * time.Second)
		b.close(s)
		if want := []time.Duration{10 * time.Second, 20 * time.Second, 30 * time.Second}; !slices.Equal(sent, want) {
			b.Errorf("renewals were sent at %v, want %v", sent, want)
		}
	})
}

// After an outage renewals have their normal interval again.
func TestRenewalsAreRareAgainAfterAnOutage(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		refuseAll(c.client)
		time.Sleep(15 * time.Second)
		c.hook(func() { c.onRenew = nil })
		time.Sleep(5 * time.Second)
		before := c.renewed(s.Lease())
		time.Sleep(time.Minute)
		if n := c.renewed(s.Lease()) - before; n != 6 {
			b.Errorf("%d renewals in a minute, want 6", n)
		}
		b.close(s)
	})
}

// A renewal reads the keys of the session and no others.
func TestRenewalsReadOwnKeysOnly(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		h := b.hold(s, "leader")
		_, err := s.Publish(b.Context(), "members/a", nil)
		b.must(err)
		other := b.plain()
		asked := func() (keys []string) {
			b.must(h.Confirm(b.Context()))
			c.hook(func() { keys = c.asked })
			return keys
		}
		if got := asked(); !slices.Equal(got, []string{"leader", "members/a"}) {
			b.Errorf("a renewal reads %q", got)
		}
		_, err = other.Publish(b.Context(), "members/a", nil)
		b.must(err)
		b.must(h.Confirm(b.Context()))
		if got := asked(); !slices.Equal(got, []string{"leader"}) {
			b.Errorf("after a takeover a renewal reads %q", got)
		}
		b.close(s)
		b.close(other)
	})
}

// P5: the answer to a renewal is not checked against a publication that is younger than
// its sending.
func TestP5PublishedWhileRenewing(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		_, err := s.Publish(b.Context(), "members/a", []byte("one"))
		b.must(err)
		apply := func(w Write) {
			_, err := b.w.apply(Txn{Then: []Write{w}}, false)
			b.must(err)
		}
		c.hook(func() {
			c.onRenew = func(_ context.Context, _ LeaseID, do func() (Renewal, error)) (Renewal, error) {
				apply(Delete("members/a"))
				r, err := do()
				apply(PutLeased("members/a", []byte("two"), s.Lease()))
				_, perr := s.Publish(b.Context(), "members/a", []byte("three"))
				b.must(perr)
				return r, err
			}
		})
		time.Sleep(10100 * time.Millisecond)
		if n := b.seen(func(e StateEvent) bool { return e.Displaced }); n != 0 {
			b.Errorf("%d takeovers were reported", n)
		}
		b.member("three", s.Lease())
		c.hook(func() { c.onRenew = nil })
		b.close(s)
	})
}
