package dcs

import (
	"context"
	"testing"
	"time"
)

// shorten makes the store keep c's leases for life from the next renewal on.
func (c *client) shorten(life time.Duration) {
	c.hook(func() {
		c.onRenew = func(_ context.Context, id LeaseID, do func() (Renewal, error)) (Renewal, error) {
			r, err := do()
			if err == nil {
				r.TTL, r.Expiry = life, life
				c.w.mu.Lock()
				c.w.extend(id, life)
				c.w.mu.Unlock()
			}
			return r, err
		}
	})
}

// P3: a later renewal with a shorter TTL moves the deadline back. Otherwise another
// session could take the lock while this one is still valid.
func TestP3ShorterLife(t *testing.T) {
	for _, rebind := range []bool{false, true} {
		inTime(t, func(b *bench) {
			c := &settling{client: &client{w: b.w, rebind: rebind}}
			s := b.session(c)
			h := b.hold(s, "leader")
			c.shorten(12 * time.Second)
			time.Sleep(10 * time.Second)
			b.must(h.Confirm(b.Context()))
			if left, want := h.Remaining(), 12*time.Second-Margin(12*time.Second); left != want {
				b.Fatalf("%v remain after a renewal for 12 s, want %v", left, want)
			}
			c.hook(func() {
				c.onRenew = failRenew
				c.onGrant = func(context.Context, func() (Lease, Renewal, error)) (Lease, Renewal, error) {
					return nil, Renewal{}, errDown()
				}
			})
			other := b.plain()
			start := time.Now()
			next, err := other.Acquire(b.Context(), "leader", nil)
			b.must(err)
			if h.Valid() || !isDone(h.Done()) || !isDone(s.Done()) {
				b.Errorf("two valid holds after %v", time.Since(start))
			}
			b.valid(next, true)
			b.is(h.Err(), ErrExpired)
			b.close(other)
			b.close(s)
		})
	}
}

// P3: Done is closed at the earlier deadline also if no method is called.
func TestP3TimerMovesBackWithTheDeadline(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		h := b.hold(s, "leader")
		c.shorten(12 * time.Second)
		time.Sleep(10 * time.Second)
		b.must(h.Confirm(b.Context()))
		refuseAll(c.client)
		start := time.Now()
		<-h.Done()
		if d, want := time.Since(start), 12*time.Second-Margin(12*time.Second); d != want {
			b.Errorf("ended after %v, want %v", d, want)
		}
		b.close(s)
	})
}

// P3: a renewal whose TTL has passed when its answer arrives ends the session.
func TestP3ShorterLifeIsOver(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		h := b.hold(s, "leader")
		c.hook(func() {
			c.onRenew = func(_ context.Context, _ LeaseID, do func() (Renewal, error)) (Renewal, error) {
				r, err := do()
				r.TTL = time.Second
				time.Sleep(2 * time.Second)
				return r, err
			}
		})
		time.Sleep(11 * time.Second)
		b.valid(h, true) // the answer is on its way
		time.Sleep(time.Second + time.Millisecond)
		b.valid(h, false)
		b.is(s.Err(), ErrExpired)
		b.close(s)
	})
}

// P3: which of two confirmed renewals sets the deadline.
func TestP3Confirmed(t *testing.T) {
	first := Now()
	at := func(after, ttl time.Duration) Renewal { return Renewal{From: first.Add(after), TTL: ttl} }
	before := at(10*time.Second, 30*time.Second)
	for name, x := range map[string]struct {
		next    Renewal
		counts  bool
		shorter bool
	}{
		"later, as long":           {at(11*time.Second, 30*time.Second), true, false},
		"later, longer":            {at(11*time.Second, 40*time.Second), true, false},
		"later, shorter":           {at(11*time.Second, 20*time.Second), true, true},
		"earlier, as long":         {at(9*time.Second, 30*time.Second), false, false},
		"earlier, longer":          {at(9*time.Second, 90*time.Second), false, false},
		"earlier, shorter":         {at(9*time.Second, 20*time.Second), false, false},
		"the same moment, longer":  {at(10*time.Second, 31*time.Second), false, false},
		"the same moment, shorter": {at(10*time.Second, 29*time.Second), true, true},
	} {
		t.Run(name, func(t *testing.T) {
			l := &leaseState{granted: before, until: Deadline(before.From, before.TTL)}
			if shorter := l.update(x.next); shorter != x.shorter {
				t.Errorf("shorter: %v", shorter)
			}
			want := before
			if x.counts {
				want = x.next
			}
			if l.until != Deadline(want.From, want.TTL) || l.granted.TTL != want.TTL {
				t.Errorf("until %v after the first moment, want %v", l.until.Sub(first), Deadline(want.From, want.TTL).Sub(first))
			}
		})
	}
}
