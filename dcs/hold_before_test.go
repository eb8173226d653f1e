package dcs

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// closesAfter checks that c is closed after want, and that it is open just before.
func (b *bench) closesAfter(c <-chan struct{}, want time.Duration, checked string) {
	b.Helper()
	start := time.Now()
	time.Sleep(want - time.Millisecond)
	if isDone(c) {
		b.Fatalf("%s: closed within %v, want it at %v", checked, time.Since(start), want)
	}
	<-c
	if got := time.Since(start); got != want {
		b.Fatalf("%s: closed after %v, want %v", checked, got, want)
	}
}

// The channel closes d before the deadline, which renewals move.
func TestDoneBefore(t *testing.T) {
	suspend(t, 0) // both clocks are the bubble's
	inTime(t, func(b *bench) {
		c, s := b.actor()
		h := b.hold(s, "leader")
		five, two := h.DoneBefore(5*time.Second), h.DoneBefore(2*time.Second)
		if five != h.DoneBefore(5*time.Second) || h.DoneBefore(0) != h.Done() || h.DoneBefore(-1) != h.Done() {
			b.Error("another channel for the same d")
		}
		if !isDone(h.DoneBefore(30 * time.Second)) {
			b.Error("less than d is left")
		}
		time.Sleep(5 * time.Minute)
		if isDone(five) || isDone(two) {
			b.Fatal("closed although the lease is renewed")
		}
		refuseAll(c.client) // the last renewal was at this moment
		b.closesAfter(five, s.Deadline().Sub(Now())-5*time.Second, "5 s before")
		b.closesAfter(two, 3*time.Second, "2 s before")
		b.valid(h, true)
		late := h.DoneBefore(time.Second)
		b.closesAfter(late, time.Second, "asked for late")
		b.closesAfter(h.Done(), time.Second, "the deadline")
		if h.DoneBefore(time.Hour) != h.Done() {
			b.Error("a Hold that has ended has another channel than Done")
		}
		b.close(s)
	})
}

// A closed channel stays closed, and after a renewal another d can be used.
func TestDoneBeforeAfterARenewal(t *testing.T) {
	suspend(t, 0)
	inTime(t, func(b *bench) {
		c, s := b.actor()
		h := b.hold(s, "leader")
		ten := h.DoneBefore(10 * time.Second)
		refuseAll(c.client)
		<-ten
		c.hook(func() { c.onRenew = nil })
		b.must(h.Confirm(b.Context()))
		if !isDone(h.DoneBefore(10 * time.Second)) {
			b.Error("a closed channel was replaced")
		}
		eleven := h.DoneBefore(11 * time.Second)
		if isDone(eleven) {
			b.Error("closed after a renewal")
		}
		b.must(h.Release(b.Context()))
		if !isDone(eleven) {
			b.Error("open although the Hold has ended")
		}
		b.close(s)
	})
}

// If the store shortens the lease, the channel is closed in time (P3).
func TestDoneBeforeOfAShorterLife(t *testing.T) {
	suspend(t, 0)
	inTime(t, func(b *bench) {
		c, s := b.actor()
		h := b.hold(s, "leader")
		d := h.DoneBefore(3 * time.Second)
		shorter := true
		c.hook(func() {
			c.onRenew = func(_ context.Context, _ LeaseID, do func() (Renewal, error)) (Renewal, error) {
				if !shorter {
					return Renewal{}, errDown()
				}
				r, err := do()
				r.TTL, shorter = 10*time.Second, false
				return r, err
			}
		})
		b.must(h.Confirm(b.Context()))
		b.closesAfter(d, Deadline(Now(), 10*time.Second).Sub(Now())-3*time.Second, "after a shorter TTL was granted")
		b.valid(h, true)
		b.close(s)
	})
}

// Many Holds share the session's one timer.
func TestDoneBeforeOfManyHolds(t *testing.T) {
	suspend(t, 0)
	inTime(t, func(b *bench) {
		c, s := b.actor()
		var ends []<-chan struct{}
		for i := range 300 {
			h := b.hold(s, "locks/"+string(rune('a'+i%26))+string(rune('a'+i/26)))
			ends = append(ends, h.DoneBefore(time.Duration(i+1)*10*time.Millisecond))
		}
		refuseAll(c.client)
		left := s.Deadline().Sub(Now())
		for i := len(ends) - 1; i >= 0; i-- {
			<-ends[i]
			if got := s.Deadline().Sub(Now()); got != time.Duration(i+1)*10*time.Millisecond {
				b.Fatalf("channel %d closed when %v were left, of %v", i, got, left)
			}
		}
		s.mu.Lock()
		open := len(s.earlyEnds)
		s.mu.Unlock()
		if open != 0 {
			b.Errorf("%d channels are still kept", open)
		}
		synctest.Wait()
		b.close(s)
	})
}
