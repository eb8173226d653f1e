package dcs

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// P5: a renewal that is on its way already proves nothing to a later Confirm.
func TestP5ConfirmIsSentAfterTheCall(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		h := b.hold(s, "leader")
		c.hook(func() {
			c.onRenew = func(_ context.Context, _ LeaseID, do func() (Renewal, error)) (Renewal, error) {
				r, err := do()
				time.Sleep(2 * time.Second)
				return r, err
			}
		})
		time.Sleep(10500 * time.Millisecond) // the renewal of 10 s has read the key
		_, err := b.w.apply(Txn{Then: []Write{Delete("leader")}}, false)
		b.must(err)
		b.is(h.Confirm(b.Context()), ErrLost)
		b.close(s)
	})
}

// Confirms that wait together share one renewal, which is sent after the last of them
// was called.
func TestP5ConfirmsShareARenewal(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		h := b.hold(s, "leader")
		c.hook(func() {
			c.onRenew = func(_ context.Context, _ LeaseID, do func() (Renewal, error)) (Renewal, error) {
				time.Sleep(time.Second)
				return do()
			}
		})
		errs := make(chan error, 20)
		for i := range 20 {
			go func() {
				time.Sleep(time.Duration(i) * 50 * time.Millisecond)
				errs <- h.Confirm(b.Context())
			}()
		}
		for range 20 {
			b.must(<-errs)
		}
		if n := c.renewed(s.Lease()); n != 2 {
			b.Fatalf("%d renewals", n)
		}
		b.close(s)
	})
}

// A Confirm whose context has ended fails, also if the renewal would be answered at once.
func TestConfirmWithAnEndedContextSendsNothing(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		h := b.hold(s, "leader")
		sent := c.renewed(s.Lease())
		ctx, cancel := context.WithCancel(b.Context())
		cancel()
		b.is(h.Confirm(ctx), context.Canceled)
		synctest.Wait()
		if n := c.renewed(s.Lease()); n != sent {
			b.Fatalf("%d renewals were sent", n-sent)
		}
		b.close(s)
	})
}

func TestConfirmIsBounded(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		h := b.hold(s, "leader")
		c.hook(func() {
			c.onRenew = func(ctx context.Context, _ LeaseID, _ func() (Renewal, error)) (Renewal, error) {
				<-ctx.Done()
				return Renewal{}, ctx.Err()
			}
		})
		start := time.Now()
		b.is(h.Confirm(b.Context()), ErrUnavailable)
		if d := time.Since(start); d != 10*time.Second {
			b.Fatalf("after %v", d)
		}
		ctx, cancel := context.WithTimeout(b.Context(), time.Second)
		defer cancel()
		err := h.Confirm(ctx)
		b.is(err, ErrUnavailable)
		b.is(err, context.DeadlineExceeded)
		b.valid(h, true)
		b.close(s)
	})
}

// P3: an older renewal does not move the deadline back.
func TestP3OnlyForward(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		h := b.hold(s, "leader")
		before := s.Deadline()
		c.hook(func() {
			c.onRenew = func(_ context.Context, _ LeaseID, do func() (Renewal, error)) (Renewal, error) {
				r, err := do()
				r.From = r.From.Add(-15 * time.Second)
				return r, err
			}
		})
		time.Sleep(10100 * time.Millisecond)
		if got := s.Deadline(); got.Before(before) || before.Before(got) {
			b.Fatalf("the deadline moved by %v", got.Sub(before))
		}
		b.must(h.Confirm(b.Context()))
		b.close(s)
	})
}

// P3: Done is closed exactly at the deadline of the last renewal, also while a renewal
// that ignores its context hangs.
func TestP3DoneAtTheLastDeadline(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		h := b.hold(s, "leader")
		time.Sleep(25 * time.Second)
		c.hook(func() {
			c.onRenew = func(context.Context, LeaseID, func() (Renewal, error)) (Renewal, error) {
				time.Sleep(time.Minute)
				return Renewal{}, errDown()
			}
		})
		time.Sleep(24399 * time.Millisecond)
		if isDone(h.Done()) || h.Remaining() != time.Millisecond {
			b.Fatalf("%v remain (%v)", h.Remaining(), h.Err())
		}
		time.Sleep(time.Millisecond)
		if !isDone(h.Done()) || !isDone(s.Done()) {
			b.Fatal("not done at the deadline")
		}
		b.is(h.Err(), ErrExpired)
	})
}

// P3, P4: the machine is suspended past the deadline while Go's clock stands still.
func TestP3BothClocks(t *testing.T) {
	sleep := suspend(t, 0)
	inTime(t, func(b *bench) {
		_, s := b.actor()
		h := b.hold(s, "leader")
		synctest.Wait() // otherwise the renewing goroutine may start after the suspend, and renew at once
		sleep(20 * time.Second)
		if left := h.Remaining(); left > 9400*time.Millisecond {
			b.Fatalf("%v remain", left)
		}
		b.valid(h, true)
		sleep(10 * time.Second)
		b.valid(h, false)
		b.is(h.Err(), ErrExpired) // also before any timer has fired
		if !isDone(h.Done()) {
			b.Fatal("Done is not closed")
		}
		b.is(h.Confirm(b.Context()), ErrExpired)
		b.close(s)
	})
}

// If the store reports the lease as gone, the next renewal ends the session.
func TestLostLease(t *testing.T) {
	inTime(t, func(b *bench) {
		_, s := b.actor()
		h := b.hold(s, "leader")
		b.w.end(s.Lease())
		other := b.plain()
		b.hold(other, "leader")
		time.Sleep(10100 * time.Millisecond)
		b.valid(h, false)
		b.is(h.Err(), ErrLost)
		b.is(s.Err(), ErrLost)
		_, err := s.Publish(b.Context(), "members/a", nil)
		b.is(err, ErrLost)
		b.close(s)
		b.is(s.Err(), ErrLost)
		b.close(other)
	})
}

// P5: a Hold is checked against its own incarnation only. Here it is released and
// acquired again while a renewal is under way.
func TestP5ReacquiredWhileRenewing(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		h := b.hold(s, "leader")
		c.hook(func() {
			c.onRenew = func(_ context.Context, _ LeaseID, do func() (Renewal, error)) (Renewal, error) {
				time.Sleep(time.Second)
				r, err := do()
				time.Sleep(2 * time.Second)
				return r, err
			}
		})
		time.Sleep(10500 * time.Millisecond)
		b.must(h.Release(b.Context()))
		time.Sleep(time.Second) // read while absent
		next := b.hold(s, "leader")
		time.Sleep(3 * time.Second)
		b.valid(next, true)
		b.must(next.Confirm(b.Context()))
		b.close(s)
	})
}

// A key that is bound to no lease, or to another one, is no longer held.
func TestUnboundKeyIsLost(t *testing.T) {
	inTime(t, func(b *bench) {
		_, s := b.actor()
		h := b.hold(s, "leader")
		_, err := b.w.apply(Txn{If: []Cond{h.Guard()}, Then: []Write{Put("leader", nil)}}, true)
		b.must(err)
		b.is(h.Confirm(b.Context()), ErrLost)
		b.must(h.Release(b.Context()))
		b.close(s)
	})
}

func TestValidCostsNothing(t *testing.T) {
	_, s := realSession(t)
	h, err := s.TryAcquire(t.Context(), "leader", nil)
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(1000, func() {
		if !h.Valid() || h.Remaining() == 0 {
			t.Error("not valid")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkValid(b *testing.B) {
	_, s := realSession(b)
	h, err := s.TryAcquire(b.Context(), "leader", nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if !h.Valid() {
			b.Fatal("not valid")
		}
	}
}

// realSession returns a session in real time.
func realSession(t testing.TB) (*client, *Session) {
	t.Helper()
	c := &client{w: newWorld()}
	st, err := New(c, Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := st.NewSession(t.Context(), SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(context.Background()) })
	return c, s
}

// A write that is refused under the guard because another session holds the lock by
// now ends the Hold at once.
func TestUpdateDetectsTheTakeover(t *testing.T) {
	inTime(t, func(b *bench) {
		s, other := b.plain(), b.plain()
		h := b.hold(s, "leader")
		_, err := b.w.apply(Txn{Then: []Write{Delete("leader")}}, false)
		b.must(err)
		next := b.hold(other, "leader")
		b.is(h.Update(b.Context(), []byte("mine")), ErrLost)
		b.valid(h, false)
		b.is(h.Err(), ErrLost)
		b.valid(next, true)
		b.close(s)
		b.close(other)
	})
}
