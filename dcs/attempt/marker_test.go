package attempt

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// An answer without an outcome proves nothing. Its copy may still be applied, so a
// definite failure needs the marker.
func TestP10UnknownOutcomeIsAmbiguous(t *testing.T) {
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
			t.Fatalf("the lock is %q after a definite failure", v)
		}
	})
}

// A copy whose answer carries no outcome is followed by another one. The same holds for a
// copy of the fence.
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

// A third party rewrites the marker in place. The refusal that follows is no conflict,
// because the caller's condition holds.
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
				t.Fatalf("got %v, want the lock, which is free", err)
			}
			if s.sent[commit] != 3 || s.sent[fencing] != 0 {
				t.Fatalf("sent %v, want one refused copy and one under a new marker", s.sent)
			}
		})
	}
}

// lostWhileUnanswered makes a Commit's first copy hang and its hedge find the marker gone. Both
// are sent within the first 100 ms.
func lostWhileUnanswered(s *store) func(kindOfRequest, Request) step {
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

// The marker is lost while a copy is unanswered until the budget ends. Nothing can be
// applied any more, so the slot has nothing left to settle.
func TestP11LostMarkerAtTheEndOfTheBudget(t *testing.T) {
	run(t, func(t *testing.T) {
		s := newStore()
		s.script = lostWhileUnanswered(s)
		o := hedged()
		o.Slots = 1
		o.AttemptTimeout = budget
		o.ResendAfter = func(time.Duration, int) time.Duration { return time.Second }
		c := New(s, o)
		defer c.Close()
		_, err := c.Commit(within(t, budget), lock("mine"))
		var e *dcs.Error
		if !errors.As(err, &e) || e.Kind != dcs.ErrAmbiguous || !e.Fenced || e.Attempt != nil {
			t.Fatalf("got %+v, want Fenced", err)
		}
		if s.sent[commit] != 2 || s.sent[fencing] != 0 {
			t.Fatalf("sent %v, want no request after the marker was found gone", s.sent)
		}
		s.script = nil
		if _, err := c.Commit(within(t, budget), put("next", "1")); err != nil || s.sent[fencing] != 0 {
			t.Fatalf("got %v after %d fences, want a free slot", err, s.sent[fencing])
		}
	})
}

// tardy answers the first copy of a Commit half a second late.
type tardy struct {
	*store
	first bool
}

func (s *tardy) Send(ctx context.Context, r Request) (Answer, error) {
	s.mu.Lock()
	late := kindOf(r) == commit && !s.first
	s.first = s.first || late
	s.mu.Unlock()
	a, err := s.store.Send(ctx, r)
	if late {
		time.Sleep(500 * time.Millisecond)
	}
	return a, err
}

// The marker is lost while a copy is unanswered. That copy was applied, so its answer
// makes the Commit succeed.
func TestP11LostMarkerWaitsForOpenCopies(t *testing.T) {
	run(t, func(t *testing.T) {
		s := &tardy{store: newStore()}
		s.script = func(k kindOfRequest, _ Request) step {
			if k == commit && s.sent[commit] == 1 {
				s.loseMarkers()
			}
			return answer
		}
		c := New(s, hedged())
		defer c.Close()
		rev, err := c.Commit(within(t, budget), lock("mine"))
		if e, _ := s.tree.Get("lock"); err != nil || e.Created != rev || s.sent[commit] != 2 {
			t.Fatalf("got %d, %v after %d copies; want %d", rev, err, s.sent[commit], e.Created)
		}
	})
}

// If requests may arrive twice, a refusal by the store proves nothing about the second
// arrival. Commit returns the refusal once the marker is taken, and Settle returns it as
// the definite failure that it is.
func TestDuplicatesOfARefusedCopy(t *testing.T) {
	for _, silent := range []bool{false, true} {
		run(t, func(t *testing.T) {
			s := newStore()
			s.only = &dcs.Error{Kind: dcs.ErrUnauthorized, Err: errors.New("no right to write")}
			s.script = func(k kindOfRequest, r Request) step {
				switch {
				case k == commit:
					s.held = append(s.held, func() { _, _ = s.apply(r) })
					return down
				case k == fencing && silent:
					return swallow
				}
				return answer
			}
			c := New(s, Options{Duplicates: true})
			defer c.Close()
			_, err := c.Commit(within(t, budget), lock("mine"))
			want := dcs.ErrUnauthorized
			var e *dcs.Error
			if silent && errors.As(err, &e) && e.Kind == dcs.ErrAmbiguous {
				s.script = nil
				_, err = c.Settle(within(t, budget), e)
				want = dcs.ErrConflict
			}
			if err := kindIs(err, want); err != nil {
				t.Fatal(err)
			}
			s.land()
			if v := s.value("lock"); v != "(absent)" {
				t.Fatalf("the lock is %q after a definite failure", v)
			}
		})
	}
}

// The fence takes the marker and its answer is lost. Its next copy finds the fence's own
// nonce, which means that the attempt was not applied. The slot is used again after that.
func TestP11LostAnswerOfTheFence(t *testing.T) {
	for _, unseen := range []bool{false, true} {
		run(t, func(t *testing.T) {
			s := newStore()
			s.unseen = unseen
			s.script = func(k kindOfRequest, _ Request) step {
				switch {
				case k == commit:
					return hold
				case k == fencing && s.sent[fencing] == 0:
					return lose
				}
				return answer
			}
			c := New(s, Options{Slots: 1})
			defer c.Close()
			_, err := c.Commit(within(t, budget), lock("mine"))
			if err := kindIs(err, dcs.ErrUnavailable); err != nil {
				t.Fatal(err)
			}
			s.land()
			if v := s.value("lock"); v != "(absent)" || s.sent[fencing] != 2 {
				t.Fatalf("the lock is %q after a definite failure and %d fences", v, s.sent[fencing])
			}
			s.script = nil
			copies := s.sent[commit]
			if _, err := c.Commit(within(t, budget), put("next", "1")); err != nil || s.sent[commit] != copies+1 || s.sent[create] != 1 {
				t.Fatalf("got %v, sent %v; want one more copy under the same marker", err, s.sent)
			}
		})
	}
}

// A condition that failed when the store checked it is a conflict, even if it holds when
// the entries are read.
func TestConflictThatIsOverWhenRead(t *testing.T) {
	run(t, func(t *testing.T) {
		s := newStore()
		s.unseen = true
		s.write(dcs.Put("lock", []byte("theirs")))
		s.after = func(k kindOfRequest) {
			if k == commit {
				s.write(dcs.Delete("lock"))
			}
		}
		c := New(s, Options{})
		defer c.Close()
		_, err := c.Commit(within(t, budget), lock("mine"))
		var e *dcs.Error
		if !errors.As(err, &e) || e.Kind != dcs.ErrConflict || e.Key != "lock" || e.Current != nil {
			t.Fatalf("got %+v, want a conflict with no holder", err)
		}
	})
}

// A dead lease is ErrLost too if the transport did not read the marker with it.
func TestP14DeadLeaseUnseen(t *testing.T) {
	run(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), budget)
		defer cancel()
		s := newStore()
		s.unseen = true
		s.after = func(kindOfRequest) {
			if s.sent[commit] > 10 { // one is enough
				cancel()
			}
		}
		c := New(s, Options{})
		defer c.Close()
		_, err := c.Commit(ctx, leased("dead"))
		if err := kindIs(err, dcs.ErrLost); err != nil || s.sent[commit] != 1 {
			t.Fatalf("%v after %d copies", err, s.sent[commit])
		}
	})
}
