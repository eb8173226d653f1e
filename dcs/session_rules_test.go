package dcs

import (
	"context"
	"errors"
	"testing"
	"time"
)

// TestRules has one case for each rule of a Session. The mutants of internal/mutants
// show that each case fails without its rule.
func TestRules(t *testing.T) {
	for _, c := range []struct {
		name string
		body func(*bench)
	}{
		{"P3 the deadline ends a session without proof", ruleP3},
		{"P4 a late answer revives nothing", ruleP4},
		{"P5 an answer judges only Holds made before its sending", ruleP5},
		{"P6 Valid is false before Release is sent", ruleP6},
		{"P16 a lock that is taken late is released", ruleP16},
		{"P17 no Acquire and no Hold while a Release is ambiguous", ruleP17},
		{"P18 Release deletes its own incarnation only", ruleP18},
		{"P19 only the first Publish takes a key over", ruleP19},
		{"P20 while a move is unsettled both leases are renewed", ruleP20},
		{"a renewal checks the held keys", ruleOwnership},
		{"the acquire context does not govern the Hold", ruleAcquireCtx},
	} {
		t.Run(c.name, func(t *testing.T) { inTime(t, c.body) })
	}
}

// actor returns a client with a Settler, and a session on it.
func (b *bench) actor() (*settling, *Session) {
	b.Helper()
	c := &settling{client: &client{w: b.w}}
	return c, b.session(c)
}

// unsettledRelease releases a lock with a deletion that stays ambiguous until it lands, or
// until c is blocked no more.
func (b *bench) unsettledRelease(c *settling, s *Session) (*Hold, *ambiguousCommit) {
	b.Helper()
	h := b.hold(s, "leader")
	c.hook(func() { c.blocked = true })
	u := c.catch(deletes)
	b.is(h.Release(b.Context()), ErrAmbiguous)
	return h, u
}

func ruleP3(b *bench) {
	c, s := b.actor()
	h := b.hold(s, "leader")
	refuseAll(c.client)
	time.Sleep(29399 * time.Millisecond)
	b.valid(h, true)
	if isDone(h.Done()) || isDone(s.Done()) || h.Err() != nil {
		b.Fatal("the Hold ended before the deadline")
	}
	time.Sleep(time.Millisecond)
	b.valid(h, false)
	if !isDone(h.Done()) || !isDone(s.Done()) || h.Remaining() != 0 {
		b.Fatal("the Hold did not end at the deadline")
	}
	b.is(h.Err(), ErrExpired)
	b.is(h.Err(), ErrUnavailable)
	b.is(h.Confirm(b.Context()), ErrExpired)
	if errors.Is(h.Err(), ErrLost) {
		b.Fatal("no event reports the loss")
	}
}

func ruleP4(b *bench) {
	c, s := b.actor()
	h := b.hold(s, "leader")
	stale, _ := b.w.get("leader")
	c.hook(func() {
		c.onRenew = func(context.Context, LeaseID, func() (Renewal, error)) (Renewal, error) {
			time.Sleep(25 * time.Second) // 10 s to 35 s, past the deadline and the context
			return Renewal{From: Now(), TTL: 30 * time.Second, Entries: []Entry{stale}}, nil
		}
	})
	time.Sleep(34 * time.Second)
	b.valid(h, false)
	time.Sleep(2 * time.Second)
	b.valid(h, false)
	b.is(s.Err(), ErrExpired)
}

func ruleP5(b *bench) {
	c, s := b.actor()
	c.hook(func() {
		c.onRenew = func(_ context.Context, _ LeaseID, do func() (Renewal, error)) (Renewal, error) {
			r, err := do() // reads before the Acquire
			time.Sleep(2 * time.Second)
			return r, err
		}
	})
	time.Sleep(11 * time.Second)
	h := b.hold(s, "leader")
	time.Sleep(2 * time.Second)
	b.valid(h, true)
	b.must(h.Confirm(b.Context()))
	b.close(s)
}

func ruleP6(b *bench) {
	c, s := b.actor()
	h := b.hold(s, "leader")
	c.hook(func() {
		c.onCommit = func(_ context.Context, _ Txn, do func() (Revision, error)) (Revision, error) {
			if h.Valid() || !isDone(h.Done()) {
				b.Error("the delete is sent while the Hold is Valid")
			}
			return do()
		}
	})
	b.must(h.Release(b.Context()))
	b.close(s)
}

func ruleP16(b *bench) {
	c, s := b.actor()
	c.blocked = true
	u := c.catch(anyTxn)
	h, err := s.TryAcquire(b.Context(), "leader", nil)
	b.is(err, ErrAmbiguous)
	if h != nil {
		b.Fatal("a Hold in addition to an error")
	}
	time.Sleep(3 * time.Second)
	b.must(u.land())
	c.hook(func() { c.blocked = false })
	time.Sleep(10 * time.Second)
	if e, found := b.w.get("leader"); found {
		b.Fatalf("a lock without an owner is renewed for ever: %+v", e)
	}
	h = b.hold(s, "leader")
	b.valid(h, true)
	b.close(s)
}

func ruleP17(b *bench) {
	c, s := b.actor()
	h, u := b.unsettledRelease(c, s)
	sent := c.count("")
	_, err := s.TryAcquire(b.Context(), "leader", nil)
	b.is(err, ErrUnavailable)
	if errors.Is(err, ErrAmbiguous) || c.count("") != sent {
		b.Fatalf("something was sent: %v", err)
	}
	ctx, cancel := context.WithTimeout(b.Context(), 15*time.Second)
	defer cancel()
	_, err = s.Acquire(ctx, "leader", nil)
	b.is(err, context.DeadlineExceeded)
	if c.count("") != sent {
		b.Fatal("something was sent")
	}
	b.must(u.land())
	c.hook(func() { c.blocked = false })
	time.Sleep(10 * time.Second)
	b.must(h.Release(b.Context()))
	b.must(b.hold(s, "leader").Confirm(b.Context()))
	b.close(s)
}

func ruleP18(b *bench) {
	_, s := b.actor()
	h := b.hold(s, "leader")
	b.w.end(s.Lease())
	_, other := b.actor()
	next := b.hold(other, "leader")
	b.must(h.Release(b.Context()))
	if e, _ := b.w.get("leader"); e.Created != next.Token() {
		b.Fatal("a stale Release deleted the next holder's lock")
	}
	b.must(next.Confirm(b.Context()))
	b.close(s)
	b.close(other)
}

func ruleP19(b *bench) {
	for _, rebind := range []bool{false, true} {
		key := map[bool]string{false: "members/a", true: "members/b"}[rebind]
		c := &settling{client: &client{w: b.w, rebind: rebind}}
		o := &settling{client: &client{w: b.w, rebind: rebind}}
		old, young := b.session(c), b.session(o)
		lock := b.hold(old, map[bool]string{false: "lock-a", true: "lock-b"}[rebind])
		displaced, err := old.Publish(b.Context(), key, []byte("old"))
		b.must(err)
		if displaced != "" {
			b.Fatalf("displaced %q", displaced)
		}
		displaced, err = young.Publish(b.Context(), key, []byte("young"))
		b.must(err)
		if displaced != old.Lease() {
			b.Fatalf("displaced %q, want %q", displaced, old.Lease())
		}
		// Before its renewal reports the takeover, and after that.
		for range 2 {
			_, err = old.Publish(b.Context(), key, []byte("old, again"))
			b.is(err, ErrConflict)
			time.Sleep(11 * time.Second)
		}
		if e, _ := b.w.get(key); string(e.Value) != "young" || e.Lease != young.Lease() {
			b.Fatalf("written back: %+v", e)
		}
		reported := b.seen(func(e StateEvent) bool { return e.Displaced && e.Key == key && e.Lease == old.Lease() })
		if reported != 1 {
			b.Fatalf("reported %d times", reported)
		}
		b.must(lock.Confirm(b.Context()))
		_, err = young.Publish(b.Context(), key, []byte("young, again"))
		b.must(err)
		b.close(old)
		b.close(young)
	}
}

func ruleP20(b *bench) {
	c := &settling{client: &client{w: b.w, rebind: true}}
	s := b.session(c)
	h := b.hold(s, "leader")
	first := s.Lease()
	c.hook(func() { c.blocked = true })
	u := c.catch(moves)
	refuseAll(c.client)
	for range 200 {
		if time.Sleep(100 * time.Millisecond); b.w.live() == 2 && b.unclearMove(c) {
			break
		}
	}
	if s.Lease() != first || b.w.live() != 2 {
		b.Fatal("no move began")
	}
	c.hook(func() { c.onRenew = nil })
	b.watch(h, 25*time.Second)
	_ = u.land() // to the spare lease, 5 s before that would end
	b.watch(h, 30*time.Second)
	c.hook(func() { c.blocked = false })
	b.watch(h, 60*time.Second)
	b.valid(h, true)
	if s.Lease() == first || b.w.live() != 1 {
		b.Fatalf("on lease %s with %d alive", s.Lease(), b.w.live())
	}
	b.close(s)
}

// unclearMove reports whether the move was sent.
func (b *bench) unclearMove(c *settling) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.sent {
		if moves(t) {
			return true
		}
	}
	return false
}

// watch lets time pass and checks that a Valid Hold has its key.
func (b *bench) watch(h *Hold, d time.Duration) {
	b.Helper()
	for range d / (100 * time.Millisecond) {
		time.Sleep(100 * time.Millisecond)
		if e, _ := b.w.get(h.Key()); h.Valid() && e.Created != h.Token() {
			b.Fatalf("Valid, and the key is gone: %+v", e)
		}
	}
}

func ruleOwnership(b *bench) {
	_, s := b.actor()
	h := b.hold(s, "leader")
	_, err := b.w.apply(Txn{Then: []Write{Delete("leader")}}, false)
	b.must(err)
	_, other := b.actor()
	next := b.hold(other, "leader")
	time.Sleep(10100 * time.Millisecond)
	b.valid(h, false)
	b.is(h.Err(), ErrLost)
	if !isDone(h.Done()) || s.Err() != nil {
		b.Fatalf("session %v", s.Err())
	}
	b.must(h.Release(b.Context()))
	b.must(next.Confirm(b.Context()))
	b.close(s)
	b.close(other)
}

func ruleAcquireCtx(b *bench) {
	_, s := b.actor()
	ctx, cancel := context.WithCancel(b.Context())
	h, err := s.Acquire(ctx, "leader", nil)
	b.must(err)
	cancel()
	time.Sleep(90 * time.Second)
	b.valid(h, true)
	b.must(h.Confirm(b.Context()))
	b.close(s)
}
