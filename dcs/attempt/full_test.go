package attempt

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// P10, P11: an answer of a full store leaves the outcome unknown, because the store may
// have applied the write that filled it. One round settles it by deleting the marker.
func TestFullStore(t *testing.T) {
	for name, tc := range map[string]struct {
		copies []step
		want   error
	}{
		"it crossed the quota": {[]step{cross}, nil},
		"it was refused":       {[]step{full}, dcs.ErrUnavailable},
		"a copy may land":      {[]step{hold, full}, dcs.ErrUnavailable},
		"a copy has landed":    {[]step{lose, full}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T) {
				s := newStore()
				c := New(s, hedged())
				defer c.Close()
				if _, err := c.Commit(within(t, budget), put("warm", "")); err != nil {
					t.Fatal(err)
				}
				marker := s.marker()
				copies := onCopies(tc.copies...)
				s.script = func(k kindOfRequest, r Request) step {
					if k == commit {
						return copies(k, r)
					}
					return full
				}
				start := time.Now()
				rev, err := c.Commit(within(t, budget), lock("mine"))
				if got := dcs.KindOf(err); got != tc.want {
					t.Fatalf("got %v, want %v", err, tc.want)
				}
				if err != nil && !errors.Is(err, ErrFull) {
					t.Fatalf("the cause is lost: %v", err)
				}
				if d := time.Since(start); d > time.Second {
					t.Fatalf("answered after %v", d)
				}
				s.land()
				if e, ok := s.tree.Get("lock"); ok != (tc.want == nil) || e.Created != rev {
					t.Fatalf("the lock is %+v, answered %d, %v", e, rev, err)
				}
				s.script = nil
				before := s.sent[commit]
				if _, err := c.Commit(within(t, budget), put("x", "1")); err != nil || s.sent[commit] != before+1 {
					t.Fatalf("%d copies of the next Commit: %v", s.sent[commit]-before, err)
				}
				if _, there := s.tree.Get(marker); there == (tc.want != nil) {
					t.Fatalf("the marker of the fence still exists: %v", there)
				}
			})
		})
	}
}

// A fence that exceeds the quota has taken the marker.
func TestFenceThatCrossesTheQuota(t *testing.T) {
	run(t, func(t *testing.T) {
		s := newStore()
		c := New(s, Options{})
		defer c.Close()
		s.script = func(k kindOfRequest, r Request) step {
			switch {
			case k == commit:
				return hold
			case k == fencing && !r.Marker.Remove:
				return cross
			}
			return answer
		}
		_, err := c.Commit(within(t, budget), lock("mine"))
		if err := kindIs(err, dcs.ErrUnavailable); err != nil {
			t.Fatal(err)
		}
		s.land()
		if got := s.value("lock"); got != "(absent)" {
			t.Fatalf("the aborted attempt was applied: %s", got)
		}
		s.script = nil
		if _, err := c.Commit(within(t, budget), lock("mine")); err != nil {
			t.Fatal(err)
		}
		if n := s.sent[create]; n != 1 {
			t.Fatalf("%d markers, want the one that was kept", n)
		}
	})
}

// If the answer to the deletion of the marker is lost, the attempt is fenced, because a
// missing marker proves no more than that (P11).
func TestLostRemovalOfTheMarker(t *testing.T) {
	run(t, func(t *testing.T) {
		s := newStore()
		c := New(s, Options{})
		defer c.Close()
		lost := false
		s.script = func(k kindOfRequest, r Request) step {
			if k == fencing && r.Marker.Remove && !lost {
				lost = true
				return lose
			}
			return map[kindOfRequest]step{commit: full, fencing: full}[k]
		}
		_, err := c.Commit(within(t, budget), lock("mine"))
		var e *dcs.Error
		if !errors.As(err, &e) || e.Kind != dcs.ErrAmbiguous || !e.Fenced {
			t.Fatalf("got %v, want an outcome that stays unknown", err)
		}
	})
}

// An attempt whose outcome was unknown before the store became full can still be settled.
func TestSettleOnAFullStore(t *testing.T) {
	run(t, func(t *testing.T) {
		s := newStore()
		c := New(s, Options{})
		defer c.Close()
		s.script = always(hold, commit, fencing)
		_, err := c.Commit(within(t, budget), lock("mine"))
		var e *dcs.Error
		if !errors.As(err, &e) || e.Kind != dcs.ErrAmbiguous {
			t.Fatalf("got %v", err)
		}
		s.held = s.held[:1] // the fences were lost
		s.script = always(full, commit, create, fencing)
		_, err = c.Settle(within(t, time.Second), e)
		if err := kindIs(err, dcs.ErrConflict); err != nil {
			t.Fatal(err)
		}
		s.land()
		if got := s.value("lock"); got != "(absent)" {
			t.Fatalf("the aborted attempt was applied: %s", got)
		}
	})
}

// If there is no marker yet, a full store ends the Commit at once with nothing of it sent.
func TestFullStoreTakesNoMarker(t *testing.T) {
	runErr(t, func(t *testing.T) error {
		s := newStore()
		c := New(s, Options{})
		defer c.Close()
		s.script = always(full, create)
		ctx, cancel := context.WithTimeout(t.Context(), budget)
		defer cancel()
		start := time.Now()
		_, err := c.Commit(ctx, lock("mine"))
		if s.sent[create] != 1 || s.sent[commit] != 0 || time.Since(start) != 0 {
			t.Fatalf("%v were sent in %v", s.sent, time.Since(start))
		}
		return kindIs(err, dcs.ErrUnavailable)
	})
}
