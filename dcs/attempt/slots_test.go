package attempt

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Who stops waiting passes on what it was given in that moment, or somebody
// else waits for ever.
func TestPoolPassesOn(t *testing.T) {
	first, second := make(chan *slot, 1), make(chan *slot, 1)
	p := &pool{size: 1, made: 1, waiting: []chan *slot{first, second}}
	p.wake()
	p.leave(first)
	select {
	case s := <-second:
		if s != nil {
			t.Error("a slot out of nowhere")
		}
	default:
		t.Error("the call to look again was lost")
	}
	given := &slot{}
	p.waiting = []chan *slot{first, second}
	p.give(given)
	p.leave(first)
	select {
	case s := <-second:
		if s != given {
			t.Error("another slot")
		}
	default:
		t.Error("the slot was lost")
	}
	p.waiting = []chan *slot{first}
	p.give(given)
	p.leave(first)
	if s, _ := p.take(t.Context()); s != given {
		t.Error("the slot was lost with nobody waiting")
	}
}

// One attempt that cannot be settled does not keep the others from being.
func TestPoolSettlesInTurn(t *testing.T) {
	a, b := &handle{}, &handle{}
	p := &pool{size: 2, made: 2, unclear: []*handle{a, b}}
	for _, want := range []*handle{a, b, a} {
		if s, h := p.take(t.Context()); s != nil || h != want {
			t.Fatalf("got %p, %p; want %p", s, h, want)
		}
	}
}

// P7: a marker that was lost is not used again.
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

// A marker that the store refuses to make ends the Commit at once, with the
// store's reason.
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
			t.Fatalf("the slot was not given back: %v", err)
		}
	})
}

// A marker that vanishes before it was read gets another name (P7).
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

// exhausted is a source of randomness that has left bytes to give, and fails
// once when it has fewer than are asked for.
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
				t.Fatalf("the slot was not given back: %v", err)
			}
		})
	}
}

// lingering is a transport whose calls take their time to end.
type lingering struct {
	*store
	under atomic.Int32
}

func (s *lingering) Send(ctx context.Context, r Request) (Answer, error) {
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
		s := &lingering{store: newStore()}
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
