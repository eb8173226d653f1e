package attempt

import (
	"errors"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// An answer that carries no outcome proves nothing. The copy behind it may
// still land, so a definite no needs the marker.
func TestP10UnknownOutcomeIsUnclear(t *testing.T) {
	run(t, func(t *testing.T) {
		s := newStore()
		s.script = always(vague, commit)
		c := New(s, Options{})
		defer c.Close()
		_, err := c.Commit(within(t, budget), lock("mine"))
		if err := kindIs(err, dcs.ErrUnavailable); err != nil {
			t.Fatal(err)
		}
		s.land()
		if v := s.value("lock"); v != "(absent)" {
			t.Fatalf("the lock is %q after a definite no", v)
		}
	})
}

// A copy whose answer carries no outcome is followed by another one. The same
// holds for a copy of the fence.
func TestUnknownOutcomeIsRetried(t *testing.T) {
	run(t, func(t *testing.T) {
		s := newStore()
		c := New(s, Options{})
		defer c.Close()
		s.script = onCopies(vague)
		if _, err := c.Commit(within(t, budget), put("x", "1")); err != nil || s.sent[commit] != 2 {
			t.Fatalf("got %v after %d copies, want an answer to the second one", err, s.sent[commit])
		}
		s.script = func(k kindOfRequest, _ Request) step {
			switch {
			case k == commit:
				return lose
			case k == fencing && s.sent[fencing] == 0:
				return vague
			}
			return answer
		}
		rev, err := c.Commit(within(t, budget), put("x", "2"))
		if e, _ := s.tree.Get("x"); err != nil || e.Modified != rev || s.sent[fencing] != 2 {
			t.Fatalf("got %d, %v after %d fences; want %d", rev, err, s.sent[fencing], e.Modified)
		}
	})
}

// A third party rewrites the marker in place. The refusal that follows is not a
// conflict, because the caller's condition holds.
func TestP9MovedMarkerIsNoConflict(t *testing.T) {
	for _, unseen := range []bool{false, true} {
		run(t, func(t *testing.T) {
			s := newStore()
			s.unseen = unseen
			c := New(s, Options{})
			defer c.Close()
			if _, err := c.Commit(within(t, budget), put("x", "1")); err != nil {
				t.Fatal(err)
			}
			s.write(dcs.Put(s.marker(), []byte("a third party's")))
			if _, err := c.Commit(within(t, budget), lock("mine")); err != nil {
				t.Fatalf("got %v, want the lock: nobody holds it", err)
			}
			if s.sent[commit] != 3 || s.sent[fencing] != 0 {
				t.Fatalf("sent %v, want one refused copy and one under a new marker", s.sent)
			}
		})
	}
}

// lostBesideOpen lets a Commit's first copy hang and its hedge find the marker
// gone. Both are sent within the first 100 ms.
func lostBesideOpen(s *store) func(kindOfRequest, Request) step {
	return func(k kindOfRequest, _ Request) step {
		switch {
		case k == create:
			return answer
		case k == commit && s.sent[commit] == 0:
			return swallow
		case k == commit:
			s.loseMarkers()
			return answer
		}
		return swallow
	}
}

// The marker is lost while a copy is unanswered, and stays so until the budget
// ends. Nothing can land any more, so the slot has nothing left to settle.
func TestP11LostMarkerAtTheEndOfTheBudget(t *testing.T) {
	run(t, func(t *testing.T) {
		s := newStore()
		s.script = lostBesideOpen(s)
		o := hedged()
		o.Slots = 1
		o.AttemptTimeout = budget
		o.ResendAfter = func(time.Duration, int) time.Duration { return time.Second }
		c := New(s, o)
		defer c.Close()
		_, err := c.Commit(within(t, budget), lock("mine"))
		var e *dcs.Error
		if !errors.As(err, &e) || e.Kind != dcs.ErrAmbiguous || !e.Fenced || e.Attempt != nil {
			t.Fatalf("got %+v, want it fenced", err)
		}
		if s.sent[commit] != 2 || s.sent[fencing] != 0 {
			t.Fatalf("sent %v, want nothing after the marker was found gone", s.sent)
		}
		s.script = nil
		if _, err := c.Commit(within(t, budget), put("next", "1")); err != nil || s.sent[fencing] != 0 {
			t.Fatalf("got %v after %d fences, want a free slot", err, s.sent[fencing])
		}
	})
}

// The marker is lost while a copy is unanswered. Its answer still counts: a yes
// is a yes, and a refusal of every copy allows a new marker.
func TestP11LostMarkerWaitsForOpenCopies(t *testing.T) {
	run(t, func(t *testing.T) {
		s := newStore()
		slow := &lazy{store: s, takes: 200 * time.Millisecond, start: s.start}
		first := true
		s.script = func(k kindOfRequest, r Request) step {
			if k == commit && first { // the first copy arrives, at 200 ms
				first = false
				time.AfterFunc(50*time.Millisecond, s.loseMarkers)
			}
			return answer
		}
		c := New(slow, hedged())
		defer c.Close()
		rev, err := c.Commit(within(t, budget), lock("mine"))
		if e, _ := s.tree.Get("lock"); err != nil || e.Created != rev {
			t.Fatalf("got %d, %v; want %d", rev, err, e.Created)
		}
	})
}

// With requests that may arrive twice, a refusal by the store itself says
// nothing of the second arrival either.
func TestDuplicatesOfWhatTheStoreRefused(t *testing.T) {
	run(t, func(t *testing.T) {
		s := newStore()
		s.only = &dcs.Error{Kind: dcs.ErrUnavailable, Err: errors.New("no space left")}
		s.script = func(k kindOfRequest, r Request) step {
			if k != commit {
				return answer
			}
			s.held = append(s.held, func() { _, _ = s.apply(r) })
			return down
		}
		c := New(s, Options{Duplicates: true})
		defer c.Close()
		_, err := c.Commit(within(t, budget), lock("mine"))
		if err := kindIs(err, dcs.ErrUnavailable); err != nil {
			t.Fatal(err)
		}
		s.land()
		if v := s.value("lock"); v != "(absent)" {
			t.Fatalf("the lock is %q after a definite no", v)
		}
	})
}
