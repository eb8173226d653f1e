package attempt

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// highest is a source of randomness that makes every pause as long as possible.
type highest struct{}

func (highest) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 0xff
	}
	return len(b), nil
}

// A failed copy is followed by a pause that doubles up to its limit, however early
// another copy would be sent during a slow one.
func TestBackOffDoubles(t *testing.T) {
	run(t, func(t *testing.T) {
		s := newStore()
		s.script = onCopies(broken, broken, broken, broken, broken, broken, broken)
		c := New(s, Options{Rand: highest{}, ResendAfter: func(time.Duration, int) time.Duration { return time.Millisecond }})
		defer c.Close()
		if _, err := c.Commit(within(t, budget), put("x", "1")); err != nil {
			t.Fatal(err)
		}
		var pauses []time.Duration
		for i := 1; i < len(s.at); i++ {
			pauses = append(pauses, (s.at[i] - s.at[i-1]).Round(time.Millisecond))
		}
		ms := time.Millisecond
		if want := []time.Duration{10 * ms, 20 * ms, 40 * ms, 80 * ms, 160 * ms, 250 * ms, 250 * ms}; !slices.Equal(pauses, want) {
			t.Fatalf("pauses of %v, want %v", pauses, want)
		}
	})
}

// Hedges stop at two unanswered copies. They are marked as hedges, and a Round
// does not count them.
func TestHedgesAreBoundedAndNamed(t *testing.T) {
	run(t, func(t *testing.T) {
		s := &lazy{store: newStore(), takes: time.Hour, start: time.Now()}
		o := hedged()
		o.AttemptTimeout = time.Second
		c := New(s, o)
		defer c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // 1.5 s for sending
		defer cancel()
		_, err := c.Commit(ctx, put("x", "1"))
		if err := kindIs(err, dcs.ErrUnavailable); err != nil {
			t.Fatal(err)
		}
		ms := time.Millisecond
		if early := s.at[:min(3, len(s.at))]; len(early) < 3 || early[1] != 100*ms || early[2] < time.Second {
			t.Fatalf("copies at %v, want the third one when the first has ended", s.at)
		}
		for i, want := range []Request{{}, {Copy: 1, Round: 1, Hedge: true}, {Copy: 2, Round: 1, Hedge: true}} {
			if r := s.asked[i]; r.Copy != want.Copy || r.Round != want.Round || r.Hedge != want.Hedge {
				t.Errorf("copy %d: Copy %d, Round %d, Hedge %v", i, r.Copy, r.Round, r.Hedge)
			}
		}
	})
}

// Options.Hedge limits hedges. It does not limit the copies that are sent after a
// failure.
func TestRefusedHedgeDoesNotStopRetries(t *testing.T) {
	run(t, func(t *testing.T) {
		s := newStore()
		s.script = onCopies(broken)
		o := hedged()
		o.Hedge = func() bool { return false }
		c := New(s, o)
		defer c.Close()
		if _, err := c.Commit(within(t, budget), put("x", "1")); err != nil || s.sent[commit] != 2 || s.sent[fencing] != 0 {
			t.Fatalf("got %v, sent %v", err, s.sent)
		}
	})
}

// An answer that has arrived when the call's time ends counts, even if the call was busy
// when it arrived.
func TestAnswerInHandAtTheDeadline(t *testing.T) {
	run(t, func(t *testing.T) {
		s := &lazy{store: newStore(), takes: 200 * time.Millisecond, start: time.Now()}
		s.script = always(swallow, fencing)
		o := hedged()
		ctx, cancel := context.WithTimeout(t.Context(), budget)
		defer cancel()
		o.Hedge = func() bool { // the answer comes, then the time is over
			time.Sleep(200 * time.Millisecond)
			cancel()
			time.Sleep(time.Millisecond)
			return false
		}
		c := New(s, o)
		defer c.Close()
		rev, err := c.Commit(ctx, put("x", "1"))
		if e, _ := s.tree.Get("x"); err != nil || e.Modified != rev {
			t.Fatalf("got %d, %v; want the answer %d", rev, err, e.Modified)
		}
		if errors.Is(err, context.Canceled) || s.sent[fencing] != 0 {
			t.Fatalf("%d fences although the copy was answered", s.sent[fencing])
		}
	})
}

// The reserve for settling never takes more than half of the budget.
func TestReserveLeavesTimeForSending(t *testing.T) {
	run(t, func(t *testing.T) {
		s := &lazy{store: newStore(), takes: 4 * time.Second, start: time.Now()}
		c := New(s, Options{SettleReserve: time.Hour, AttemptTimeout: budget})
		defer c.Close()
		if _, err := c.Commit(within(t, budget), put("x", "1")); err != nil {
			t.Fatal(err)
		}
		s.takes = time.Hour
		_, err := c.Commit(within(t, budget), put("x", "2"))
		if err := kindIs(err, dcs.ErrUnavailable); err != nil || time.Since(s.start) != 9*time.Second {
			t.Fatalf("%v after %v, want it settled after 4 s and 5 s", err, time.Since(s.start))
		}
	})
}

// With a budget that is nearly spent, a copy still gets enough time for an answer.
func TestShortBudgetLeavesTimeForAnAnswer(t *testing.T) {
	run(t, func(t *testing.T) {
		s := &lazy{store: newStore(), takes: 5 * time.Millisecond, start: time.Now()}
		c := New(s, Options{})
		defer c.Close()
		if _, err := c.Commit(within(t, 9*time.Millisecond), put("x", "1")); err != nil || len(s.at) != 1 {
			t.Fatalf("got %v after copies at %v", err, s.at)
		}
	})
}

// A store that reports the condition which failed reports the marker's first (P9).
func TestWholeStatesTheMarkerFirst(t *testing.T) {
	r := Request{Marker: Marker{Key: ".op/1", Modified: 7, Nonce: []byte("nonce")}, Txn: lock("mine")}
	whole := r.Whole("kept")
	if whole.If[0] != dcs.ModifiedAt(".op/1", 7) || whole.If[1] != r.Txn.If[0] {
		t.Errorf("conditions %+v", whole.If)
	}
	if w := whole.Then[0]; w.Key != ".op/1" || string(w.Value) != "nonce" || w.Lease != "kept" || whole.Then[1].Key != "lock" {
		t.Errorf("writes %+v", whole.Then)
	}
}
