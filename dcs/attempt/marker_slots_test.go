package attempt

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// A slot that is given to a waiter at the moment when its time ends is not lost. A waiter
// that has left gets none.
func TestPoolLosesNoSlot(t *testing.T) {
	p := &pool{limit: 1, made: 1}
	given := &markerSlot{}
	late, gone, next := &waiter{stop: func() {}}, &waiter{}, &waiter{stop: func() {}}
	for _, w := range []*waiter{late, gone, next} {
		if s := p.enter(w); s != nil {
			t.Fatal("took a slot although none is free")
		}
	}
	p.release(given)
	if s := p.leave(late); s != given {
		t.Errorf("got %p, want the slot that was given", s)
	}
	if s := p.leave(gone); s != nil {
		t.Errorf("got %p, want no slot", s)
	}
	p.release(given)
	if s := p.leave(next); s != given {
		t.Errorf("got %p, want the slot that was given", s)
	}
	p.release(given)
	if s := p.enter(late); s != given || len(p.waiting) != 0 {
		t.Errorf("got %p, want the free slot", s)
	}
}

// An attempt that cannot be settled does not keep the others from being settled.
func TestPoolSettlesInTurn(t *testing.T) {
	a, b := &pendingAttempt{}, &pendingAttempt{}
	p := &pool{limit: 2, made: 2, ambiguous: []*pendingAttempt{a, b}}
	for _, want := range []*pendingAttempt{a, b, a} {
		ctx, cancel := context.WithCancel(t.Context())
		s := p.take(ctx, func(_ context.Context, h *pendingAttempt) {
			if h != want {
				t.Errorf("settles %p, want %p", h, want)
			}
			cancel()
		})
		if s != nil {
			t.Fatal("took a slot although none is free")
		}
	}
}

// P7: a marker that was lost is never used again.
func TestP7LostMarkerIsNotUsedAgain(t *testing.T) {
	run(t, func(t *testing.T) {
		s := newStore()
		c := New(s, Options{Slots: 1})
		defer c.Close()
		used := map[string]bool{}
		s.script = func(k kindOfRequest, r Request) step {
			used[r.Marker.Key] = true
			return map[kindOfRequest]step{commit: lose, fencing: swallow}[k]
		}
		_, err := c.Commit(within(t, time.Second), put("x", "1"))
		var e *dcs.Error
		if !errors.As(err, &e) {
			t.Fatal(err)
		}
		s.loseMarkers()
		s.script = nil
		if _, err := c.Settle(within(t, budget), e); err == nil {
			t.Fatal("settled without a marker")
		}
		s.script = func(_ kindOfRequest, r Request) step {
			if used[r.Marker.Key] {
				t.Errorf("marker %s is used again", r.Marker.Key)
			}
			return answer
		}
		if _, err := c.Commit(within(t, budget), put("x", "2")); err != nil {
			t.Fatal(err)
		}
	})
}

// If the store refuses to create a marker, the Commit ends at once with the store's
// error.
func TestMarkerRefusedOutright(t *testing.T) {
	run(t, func(t *testing.T) {
		s := newStore()
		s.only = &dcs.Error{Kind: dcs.ErrUnauthorized, Endpoint: "m1", Err: errors.New("no right to write")}
		s.script = always(down, create)
		c := New(s, Options{Slots: 1})
		defer c.Close()
		start := time.Now()
		_, err := c.Commit(within(t, budget), put("x", "1"))
		want := "dcs: Commit: unauthorized [m1]: no right to write"
		if err == nil || err.Error() != want || !errors.Is(err, dcs.ErrUnauthorized) || time.Since(start) > time.Second {
			t.Fatalf("after %v: %v, want %s", time.Since(start), err, want)
		}
		s.script = nil
		if _, err := c.Commit(within(t, budget), put("x", "1")); err != nil {
			t.Fatalf("the slot was not released: %v", err)
		}
	})
}

// A marker that disappears before it was read gets another name (P7).
func TestP7VanishedMarkerIsNotUsedAgain(t *testing.T) {
	run(t, func(t *testing.T) {
		s := newStore()
		var names []string
		s.script = func(k kindOfRequest, r Request) step {
			if k == create {
				names = append(names, r.Marker.Key)
			}
			return answer
		}
		s.after = func(k kindOfRequest) {
			if k == create && len(names) == 1 {
				s.loseMarkers()
			}
		}
		c := New(s, Options{})
		defer c.Close()
		if _, err := c.Commit(within(t, budget), put("x", "1")); err != nil || len(names) != 2 || names[0] == names[1] {
			t.Fatalf("got %v with the markers %q, want two names", err, names)
		}
	})
}

// exhausted is a source of randomness with left bytes. It fails once when it has fewer
// than requested.
type exhausted struct {
	left   int
	failed bool
	after  io.Reader
}

func (e *exhausted) Read(b []byte) (int, error) {
	switch {
	case e.failed:
	case e.left < len(b):
		e.failed = true
		return 0, errors.New("no randomness")
	}
	e.left -= len(b)
	return e.after.Read(b)
}

func TestNoRandomnessNothingSent(t *testing.T) {
	for left, sent := range map[int]int{10: 0, 20: 0, 40: 1} { // for a name, for its creation, for a Commit
		run(t, func(t *testing.T) {
			s := newStore()
			c := New(s, Options{Slots: 1, Rand: &exhausted{left: left, after: rand.NewChaCha8([32]byte{1})}})
			defer c.Close()
			_, err := c.Commit(within(t, budget), put("x", "1"))
			if err := kindIs(err, dcs.ErrUnavailable); err != nil {
				t.Fatal(err)
			}
			if s.sent[create] != sent || s.sent[commit] != 0 {
				t.Fatalf("sent %v without randomness", s.sent)
			}
			if _, err := c.Commit(within(t, budget), put("x", "1")); err != nil {
				t.Fatalf("the slot was not released: %v", err)
			}
		})
	}
}

// slowToEnd is a transport whose calls are slow to end.
type slowToEnd struct {
	*store
	under atomic.Int32
}

func (s *slowToEnd) Send(ctx context.Context, r Request) (Answer, error) {
	s.under.Add(1)
	defer s.under.Add(-1)
	a, err := s.store.Send(ctx, r)
	if err != nil {
		time.Sleep(time.Second)
	}
	return a, err
}

func TestCloseWaitsForEveryCopy(t *testing.T) {
	run(t, func(t *testing.T) {
		s := &slowToEnd{store: newStore()}
		s.script = onCopies(swallow)
		c := New(s, hedged())
		if _, err := c.Commit(within(t, budget), put("x", "1")); err != nil { // by the hedge
			t.Fatal(err)
		}
		if s.under.Load() != 1 {
			t.Fatal("no copy is left under way")
		}
		if err := c.Close(); err != nil || s.under.Load() != 0 {
			t.Fatalf("closed with %d copies under way: %v", s.under.Load(), err)
		}
	})
}

// occupied is a store that is slow for the commits of some keys.
type occupied struct {
	*store
	takes map[string]time.Duration
}

func (s *occupied) Send(ctx context.Context, r Request) (Answer, error) {
	if kindOf(r) == commit {
		select {
		case <-time.After(s.takes[r.Txn.Then[0].Key]):
		case <-ctx.Done():
			return Answer{}, ctx.Err()
		}
	}
	return s.store.Send(ctx, r)
}

// A Commit that settles another one's attempt takes a slot as soon as one is released. If
// there are several such Commits, each takes one. The attempt stays unsettled.
func TestP12SettlerTakesTheFreeSlot(t *testing.T) {
	for _, waiting := range []int{1, 3} {
		run(t, func(t *testing.T) {
			s := &occupied{newStore(), map[string]time.Duration{}}
			ambiguous := func(k kindOfRequest, r Request) step {
				if k == fencing || k == commit && r.Txn.Then[0].Key == "ambiguous" {
					return swallow
				}
				return answer
			}
			s.script = ambiguous
			c := New(s, Options{Slots: 3, AttemptTimeout: time.Hour})
			defer c.Close()
			_, err := c.Commit(within(t, budget), put("ambiguous", "1"))
			var e *dcs.Error
			if !errors.As(err, &e) || e.Attempt == nil {
				t.Fatalf("got %v, want an attempt to settle later", err)
			}
			var wg sync.WaitGroup
			commit := func(key string, takes, after time.Duration) {
				s.takes[key] = takes
				wg.Go(func() {
					start := time.Now()
					if _, err := c.Commit(within(t, time.Hour), put(key, "1")); err != nil || time.Since(start) != after {
						t.Errorf("%s: %v after %v, want an answer after %v", key, err, time.Since(start), after)
					}
				})
				synctest.Wait() // the Commit has its slot, or settles
			}
			commit("busy", time.Second, time.Second)
			commit("busy too", 5*time.Second, 5*time.Second)
			for n := range waiting {
				commit("waits "+strconv.Itoa(n), 0, time.Second)
			}
			wg.Wait()
			if free := len(c.pool.free); free != 2 || len(c.pool.ambiguous) != 1 || len(c.pool.waiting) != 0 {
				t.Errorf("%d slots are free and %d attempts ambiguous, want 2 and 1; %d Commits wait", free, len(c.pool.ambiguous), len(c.pool.waiting))
			}
			s.script = nil
			if _, err := c.Settle(within(t, budget), e); dcs.KindOf(err) != dcs.ErrConflict || len(c.pool.free) != 3 {
				t.Errorf("settled as %v, %d slots are free", err, len(c.pool.free))
			}
		})
	}
}

// A Commit that waits for a busy slot settles attempts that become ambiguous meanwhile,
// also if the Commit that settled them first has found a slot.
func TestP12SettlingIsTakenOver(t *testing.T) {
	run(t, func(t *testing.T) {
		s := newStore()
		s.script = func(k kindOfRequest, r Request) step {
			at := time.Since(s.start)
			switch {
			case k == fencing && at < 10*time.Second:
				return swallow
			case k != commit:
				return answer
			}
			switch key := r.Txn.Then[0].Key; {
			case key == "ambiguous", key == "first", key == "busy" && at < 5*time.Second:
				return swallow
			}
			return answer
		}
		c := New(s, Options{Slots: 2, AttemptTimeout: time.Second})
		var wg sync.WaitGroup
		begin := func(key string, budget time.Duration) {
			wg.Go(func() { _, _ = c.Commit(within(t, budget), put(key, "1")) })
			synctest.Wait()
		}
		begin("busy", time.Hour)
		begin("ambiguous", 2*time.Second)
		begin("first", 2*time.Hour) // settles from 2 s on, and keeps the slot that is free after 5 s
		_, err := c.Commit(within(t, time.Hour), put("second", "1"))
		if took := time.Since(s.start); err != nil || took < 10*time.Second || took > 12*time.Second {
			t.Errorf("%v after %v, want the slot that can be settled after 10 s", err, took)
		}
		c.Close()
		wg.Wait()
	})
}

// burst sends n Commits at once to a store that answers each after 5 ms.
func burst(t *testing.T, c *Committer, s *occupied, n int) (failed []error) {
	t.Helper()
	var wg sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		s.takes[strconv.Itoa(i)] = 5 * time.Millisecond
	}
	for i := range n {
		key := strconv.Itoa(i)
		ctx := within(t, 3001*time.Millisecond)
		wg.Go(func() { _, errs[i] = c.Commit(ctx, put(key, "1")) })
	}
	wg.Wait()
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

// The number of slots grows while many Commits wait, and stays small while few wait.
func TestSlotsGrowWithTheLoad(t *testing.T) {
	for _, x := range []struct{ slots, commits, made int }{
		{0, 8, 8}, {0, 15, 8}, {0, 17, 9}, {0, 1000, maxSlots}, {12, 200, 12},
	} {
		run(t, func(t *testing.T) {
			s := &occupied{newStore(), map[string]time.Duration{}}
			c := New(s, Options{Slots: x.slots})
			defer c.Close()
			if failed := burst(t, c, s, x.commits); len(failed) > 0 {
				t.Errorf("%d of %d Commits failed: %v", len(failed), x.commits, failed[0])
			}
			if c.pool.made != x.made {
				t.Errorf("%d slots for %d Commits, want %d", c.pool.made, x.commits, x.made)
			}
		})
	}
}

// The error of a Commit that found no slot names the limit, and is no sign of an outage.
func TestNoSlotIsNoOutage(t *testing.T) {
	run(t, func(t *testing.T) {
		s := &occupied{newStore(), map[string]time.Duration{}}
		c := New(s, Options{Slots: 2})
		defer c.Close()
		waited := 0
		for _, err := range burst(t, c, s, 1000) {
			var local interface{ Local() bool }
			if errors.As(err, &local) && local.Local() {
				waited++
				if kindIs(err, dcs.ErrUnavailable) != nil || !strings.Contains(err.Error(), "2 slots") {
					t.Fatalf("got %v", err)
				}
			}
		}
		if waited < 50 {
			t.Fatalf("%d Commits of 1000 found no slot, one of two, in 2.25 s", waited)
		}
	})
}
