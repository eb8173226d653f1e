package dcs

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestSessionLife(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		h := b.hold(s, "leader")
		if e, _ := b.w.get("leader"); e.Created != h.Token() || e.Lease != s.Lease() || string(e.Value) != "me" {
			b.Fatalf("the store has %+v, the Hold token %d", e, h.Token())
		}
		for range 20 {
			time.Sleep(9 * time.Second)
			b.valid(h, true)
			b.must(h.Confirm(b.Context()))
		}
		if s.State() != Held || s.Err() != nil || h.Err() != nil || isDone(h.Done()) || isDone(s.Done()) {
			b.Fatal("a session that is renewed has ended")
		}
		if left := h.Remaining(); left <= 29*time.Second || left > 29400*time.Millisecond {
			b.Fatalf("%v remain after a renewal, want about 29.4 s", left)
		}
		if g := h.Guard(); g != CreatedAt("leader", h.Token()) {
			b.Fatalf("guard %+v", g)
		}
		b.must(h.Release(b.Context()))
		sent := c.count("")
		b.must(h.Release(b.Context()))
		if c.count("") != sent {
			b.Fatal("released twice")
		}
		b.valid(h, false)
		b.is(h.Err(), ErrReleased)
		if _, found := b.w.get("leader"); found {
			b.Fatal("the key still exists after Release")
		}
		again := b.hold(s, "leader")
		if again.Token() <= h.Token() {
			b.Fatalf("token %d after %d", again.Token(), h.Token())
		}
		b.close(s)
		b.valid(again, false)
		b.is(again.Err(), ErrReleased)
		b.is(s.Err(), ErrReleased)
		b.is(again.Confirm(b.Context()), ErrReleased)
		_, err := s.TryAcquire(b.Context(), "leader", nil)
		b.is(err, ErrReleased)
		if _, found := b.w.get("leader"); found || b.w.live() != 0 {
			b.Fatal("keys or leases are left in the store after Close")
		}
		b.close(s)
	})
}

func TestConflictCarriesTheHolder(t *testing.T) {
	inTime(t, func(b *bench) {
		a, o := b.plain(), b.plain()
		h := b.hold(a, "leader")
		_, err := o.TryAcquire(b.Context(), "leader", []byte("other"))
		b.is(err, ErrConflict)
		var e *Error
		if !errors.As(err, &e) || e.Current == nil || string(e.Current.Value) != "me" || e.Current.Created != h.Token() || e.Op != "TryAcquire" {
			b.Fatalf("the conflict does not carry the holder: %+v", e)
		}
		_, err = a.TryAcquire(b.Context(), "leader", nil)
		b.is(err, ErrConflict)
		if !strings.Contains(err.Error(), "not re-entrant") {
			b.Fatal(err)
		}
		_, err = a.Acquire(b.Context(), "leader", nil)
		b.is(err, ErrConflict)
		b.close(a)
		b.close(o)
	})
}

func TestSessionNamesTheHolderWhenTheStoreDoesNot(t *testing.T) {
	inTime(t, func(b *bench) {
		a, c := b.plain(), &settling{client: &client{w: b.w}}
		o := b.session(c)
		b.hold(a, "leader")
		c.hook(func() {
			c.onCommit = func(context.Context, Txn, func() (Revision, error)) (Revision, error) {
				return 0, &Error{Kind: ErrConflict}
			}
		})
		_, err := o.TryAcquire(b.Context(), "leader", nil)
		var e *Error
		if !errors.As(err, &e) || e.Current == nil || e.Current.Lease != a.Lease() {
			b.Fatalf("%v", err)
		}
		b.close(a)
		b.close(o)
	})
}

func TestAcquireWaits(t *testing.T) {
	inTime(t, func(b *bench) {
		a, c := b.plain(), &settling{client: &client{w: b.w}}
		o := b.session(c)
		h := b.hold(a, "leader")
		got := make(chan *Hold)
		go func() {
			h, err := o.Acquire(context.Background(), "leader", []byte("other"))
			if err != nil {
				b.Error(err)
			}
			got <- h
		}()
		time.Sleep(time.Minute)
		if n := c.count("leader"); n != 1 {
			b.Fatalf("%d attempts while the lock was held, which is polling", n)
		}
		before := time.Now()
		b.must(h.Release(b.Context()))
		next := <-got
		if waited := time.Since(before); waited > 0 {
			b.Fatalf("handed over after %v", waited)
		}
		b.valid(next, true)
		// The crash of the holder is detected too.
		go func() {
			h, err := a.Acquire(context.Background(), "leader", nil)
			if err != nil {
				b.Error(err)
			}
			got <- h
		}()
		time.Sleep(time.Second)
		b.w.end(o.Lease())
		b.valid(<-got, true)
		b.close(a)
		b.close(o)
	})
}

func TestAcquireEndsWithItsContext(t *testing.T) {
	inTime(t, func(b *bench) {
		a, o := b.plain(), b.plain()
		b.hold(a, "leader")
		ctx, cancel := context.WithTimeout(b.Context(), 5*time.Minute)
		defer cancel()
		if _, err := o.Acquire(ctx, "leader", nil); err != context.DeadlineExceeded {
			b.Fatalf("got %v, want the bare context error", err)
		}
		go func() { time.Sleep(time.Second); b.must(o.Close(context.Background())) }()
		_, err := o.Acquire(b.Context(), "leader", nil)
		b.is(err, ErrReleased)
		b.close(a)
	})
}

// The context of Acquire bounds the waiting and not the Hold.
func TestAcquireContextDoesNotGovernTheHold(t *testing.T) {
	inTime(t, func(b *bench) {
		s := b.plain()
		ctx, cancel := context.WithCancel(b.Context())
		h, err := s.Acquire(ctx, "leader", nil)
		b.must(err)
		cancel()
		time.Sleep(90 * time.Second)
		b.valid(h, true)
		b.must(h.Confirm(b.Context()))
		b.close(s)
	})
}

func TestSessionRefusesGrantThatBreaksItsTiming(t *testing.T) {
	inTime(t, func(b *bench) {
		s := b.store(&client{w: b.w, ttl: 12 * time.Second})
		_, err := s.NewSession(b.Context(), SessionOptions{})
		b.is(err, ErrInvalid)
		for _, word := range []string{"12s", "LoopWait", "RetryTimeout", "works"} {
			if !strings.Contains(err.Error(), word) {
				b.Errorf("%q is not named: %v", word, err)
			}
		}
		synctest.Wait()
		if b.w.live() != 0 {
			b.Error("the refused lease was not revoked")
		}
		_, err = s.NewSession(b.Context(), SessionOptions{Timing: Timing{TTL: 10 * time.Second, LoopWait: 10 * time.Second, RetryTimeout: time.Second}})
		b.is(err, ErrInvalid)
		n, err := s.NewSession(b.Context(), SessionOptions{Timing: Timing{TTL: 12 * time.Second, LoopWait: 4 * time.Second, RetryTimeout: 4 * time.Second}})
		b.must(err)
		if n.Granted().TTL != 12*time.Second {
			b.Error(n.Granted())
		}
		b.close(n)
	})
}

func TestSessionGrantAnsweredTooLate(t *testing.T) {
	inTime(t, func(b *bench) {
		c := &client{w: b.w}
		c.onGrant = func(_ context.Context, do func() (Lease, Renewal, error)) (Lease, Renewal, error) {
			l, r, err := do()
			r.From = r.From.Add(-30 * time.Second)
			return l, r, err
		}
		_, err := b.store(c).NewSession(b.Context(), SessionOptions{})
		b.is(err, ErrExpired)
		synctest.Wait()
		if b.w.live() != 0 {
			b.Error("the lease was not revoked")
		}
	})
}

func TestStoreCloseEndsSessions(t *testing.T) {
	inTime(t, func(b *bench) {
		st := b.store(&client{w: b.w})
		s, err := st.NewSession(b.Context(), SessionOptions{})
		b.must(err)
		h := b.hold(s, "leader")
		b.must(st.Close())
		b.valid(h, false)
		b.is(h.Err(), ErrClosed)
		b.is(s.Err(), ErrClosed)
		if !isDone(h.Done()) || !isDone(s.Done()) {
			b.Fatal("Done is not closed")
		}
		b.is(s.Close(b.Context()), ErrClosed)
		_, err = st.NewSession(b.Context(), SessionOptions{})
		b.is(err, ErrClosed)
	})
}

// Close of a lost session revokes at once, before the margin has passed.
func TestSessionCloseAfterLoss(t *testing.T) {
	inTime(t, func(b *bench) {
		c, s := b.actor()
		refuseAll(c.client)
		time.Sleep(29400 * time.Millisecond)
		b.is(s.Err(), ErrExpired)
		start := time.Now()
		b.close(s)
		if d := time.Since(start); d != 0 || b.w.live() != 0 {
			b.Fatalf("took %v, %d leases left", d, b.w.live())
		}
	})
}

// Close is bounded, no matter how the store behaves.
func TestSessionCloseIsBounded(t *testing.T) {
	inTime(t, func(b *bench) {
		c := &client{w: b.w}
		s := b.session(c)
		b.hold(s, "leader")
		hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		c.hook(func() {
			c.onCommit = func(ctx context.Context, _ Txn, _ func() (Revision, error)) (Revision, error) { return 0, hang(ctx) }
		})
		start := time.Now()
		b.must(s.Close(b.Context())) // the revoke succeeds in the half that is left
		if d := time.Since(start); d != 5*time.Second {
			b.Fatalf("took %v", d)
		}
		if _, found := b.w.get("leader"); found {
			b.Fatal("the key still exists")
		}
	})
}

// Close leaves no goroutine behind, also if a renewal is slow to end.
func TestSessionCloseWaitsForItsGoroutines(t *testing.T) {
	inTime(t, func(b *bench) {
		c := &client{w: b.w}
		s := b.session(c)
		var under, ended atomic.Bool
		c.hook(func() {
			c.onRenew = func(ctx context.Context, _ LeaseID, _ func() (Renewal, error)) (Renewal, error) {
				under.Store(true)
				<-ctx.Done()
				time.Sleep(time.Second)
				ended.Store(true)
				return Renewal{}, ctx.Err()
			}
		})
		time.Sleep(11 * time.Second)
		b.close(s)
		if !under.Load() || !ended.Load() {
			b.Fatalf("renewal under way: %v, ended when Close returned: %v", under.Load(), ended.Load())
		}
	})
}

func TestHoldUpdate(t *testing.T) {
	inTime(t, func(b *bench) {
		s := b.plain()
		h := b.hold(s, "leader")
		b.must(h.Update(b.Context(), []byte("more")))
		e, _ := b.w.get("leader")
		if string(e.Value) != "more" || e.Created != h.Token() || e.Lease != s.Lease() || e.Modified == e.Created {
			b.Fatalf("%+v", e)
		}
		b.must(h.Confirm(b.Context()))
		_, err := b.w.apply(Txn{Then: []Write{Delete("leader")}}, false)
		b.must(err)
		b.is(h.Update(b.Context(), []byte("less")), ErrLost)
		b.valid(h, false)
		b.is(h.Err(), ErrLost)
		if s.Err() != nil {
			b.Fatal("the session ended with one of its holds")
		}
		b.close(s)
	})
}

func TestObserverAndStates(t *testing.T) {
	inTime(t, func(b *bench) {
		c := &settling{client: &client{w: b.w}}
		s := b.session(c)
		h := b.hold(s, "leader")
		refuseAll(c.client)
		time.Sleep(11 * time.Second)
		if s.State() != Unknown {
			b.Fatal(s.State())
		}
		b.valid(h, true)
		c.hook(func() { c.onRenew = nil })
		b.must(h.Confirm(b.Context()))
		if s.State() != Held {
			b.Fatal(s.State())
		}
		b.must(h.Release(b.Context()))
		b.close(s)
		synctest.Wait() // the events are delivered
		for _, key := range []string{"", "leader"} {
			var got []State
			for _, e := range b.states {
				if e.Key == key {
					got = append(got, e.To)
				}
			}
			if want := []State{Held, Unknown, Held, Lost}; len(got) != 4 || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] || got[3] != want[3] {
				b.Errorf("states of %q: %v, want %v", key, got, want)
			}
		}
		failed, ok := 0, 0
		for _, e := range b.renews {
			if e.Err != nil {
				failed++
			} else if ok++; e.Deadline.Elapsed() > 0 || e.Lease == "" {
				b.Errorf("%+v", e)
			}
		}
		if failed == 0 || ok == 0 {
			b.Errorf("%d failed renewals and %d confirmed ones were reported", failed, ok)
		}
	})
}

func TestGateKeepsTheSessionFromRenewing(t *testing.T) {
	inTime(t, func(b *bench) {
		c := &settling{client: &client{w: b.w, rebind: true}}
		hung := errors.New("the manager is hung")
		s, err := b.store(c).NewSession(b.Context(), SessionOptions{Gate: func() error { return hung }})
		b.must(err)
		h := b.hold(s, "leader")
		time.Sleep(time.Minute)
		b.valid(h, false)
		b.is(s.Err(), ErrExpired)
		b.is(s.Err(), hung)
		if c.renewed(s.Lease()) != 0 || b.w.granted != 1 {
			b.Fatal("renewed although the gate refused it")
		}
		b.close(s)
	})
}

// Callbacks may call the session, and events arrive in order, also if they are slow.
func TestCallbacksMayAsk(t *testing.T) {
	inTime(t, func(b *bench) {
		var held atomic.Pointer[Hold]
		var got []State
		st, err := New(&settling{client: &client{w: b.w}}, Options{Observer: Observer{State: func(e StateEvent) {
			if h := held.Load(); h != nil {
				time.Sleep(time.Second)
				_, _, _, _ = h.s.Err(), h.s.State(), h.Err(), h.s.Lease()
			}
			if e.Key == "" {
				got = append(got, e.To)
			}
		}}})
		b.must(err)
		b.stores = append(b.stores, st)
		s, err := st.NewSession(b.Context(), SessionOptions{})
		b.must(err)
		h := b.hold(s, "leader")
		held.Store(h)
		b.w.end(s.Lease())
		b.is(h.Confirm(b.Context()), ErrLost)
		b.close(s)
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(got) != 2 || got[0] != Held || got[1] != Lost {
			b.Errorf("received %v", got)
		}
	})
}
