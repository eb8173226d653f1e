package attempt

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// A copy that arrives after another one was applied writes nothing.
func TestP7CopiesExcludeEachOther(t *testing.T) {
	runErr(t, func(t *testing.T) error {
		s := newStore()
		s.script = onCopies(hold)
		c := New(s, hedged())
		defer c.Close()
		if _, err := c.Commit(within(t, budget), put("x", "mine")); err != nil {
			return err
		}
		s.write(dcs.Put("x", []byte("later")))
		s.land()
		if v := s.value("x"); v != "later" {
			return fmt.Errorf("x is %q: two copies were applied", v)
		}
		return nil
	})
}

// An attempt is applied, its answer is lost, and the marker expires. If a fence were
// conditional on the absence of the marker, it would succeed and report a definite
// failure.
func TestP8MarkerIsMadeAndReadFirst(t *testing.T) {
	runErr(t, func(t *testing.T) error {
		s := newStore()
		s.script = always(lose, commit)
		s.after = func(k kindOfRequest) {
			if k == commit {
				s.loseMarkers()
			}
		}
		c := New(s, Options{})
		defer c.Close()
		_, err := c.Commit(within(t, budget), lock("mine"))
		if s.value("lock") != "mine" {
			return errors.New("the attempt was not applied, so the case proves nothing")
		}
		return kindIs(err, dcs.ErrAmbiguous)
	})
}

// If a copy arrives twice, the second answer is a conflict of the Commit with itself.
func TestP9ConflictWithOneselfIsSuccess(t *testing.T) {
	runErr(t, func(t *testing.T) error {
		s := newStore()
		s.script = onCopies(repeat)
		c := New(s, Options{})
		defer c.Close()
		rev, err := c.Commit(within(t, budget), lock("mine"))
		if err != nil {
			return err
		}
		if e, _ := s.tree.Get("lock"); e.Created != rev {
			return fmt.Errorf("token %d, want %d", rev, e.Created)
		}
		return nil
	})
}

// One copy is answered with a conflict, and another one arrives when the lock is free.
func TestP10HedgedConflictNeverLands(t *testing.T) {
	runErr(t, func(t *testing.T) error {
		s := newStore()
		held := s.write(dcs.Put("lock", []byte("theirs")))
		s.script = onCopies(hold)
		c := New(s, hedged())
		defer c.Close()
		_, err := c.Commit(within(t, budget), lock("mine"))
		if err := kindIs(err, dcs.ErrConflict); err != nil {
			return err
		}
		var e *dcs.Error
		if !errors.As(err, &e) || e.Current == nil || e.Current.Created != held || e.Key != "lock" {
			return fmt.Errorf("the conflict does not carry the holder: %w", err)
		}
		s.write(dcs.Delete("lock"))
		s.land()
		if v := s.value("lock"); v != "(absent)" {
			return fmt.Errorf("the lock is %q after a definite failure", v)
		}
		return nil
	})
}

// No copy is answered. A read does not prove that none was applied.
func TestP11FailureNeedsTheMarker(t *testing.T) {
	runErr(t, func(t *testing.T) error {
		s := newStore()
		s.script = always(hold, commit)
		c := New(s, Options{})
		defer c.Close()
		_, err := c.Commit(within(t, budget), lock("mine"))
		if err := kindIs(err, dcs.ErrUnavailable); err != nil {
			return err // with the marker taken the failure is definite, and the Commit can be tried again
		}
		s.land()
		if v := s.value("lock"); v != "(absent)" {
			return fmt.Errorf("the lock is %q after a definite failure", v)
		}
		return nil
	})
}

// A marker that is gone, or of another incarnation, proves only that nothing can be
// applied any more.
func TestP11LostMarkerIsFenced(t *testing.T) {
	for name, remade := range map[string]bool{"absent": false, "of another incarnation": true} {
		t.Run(name, func(t *testing.T) {
			runErr(t, func(t *testing.T) error {
				s := newStore()
				s.script = always(lose, commit)
				var marker string
				s.after = func(k kindOfRequest) {
					if k == create {
						marker = s.tree.Snapshot(".op").Entries[0].Key
					}
					if k != commit {
						return
					}
					s.loseMarkers()
					if remade {
						s.write(dcs.Put(marker, []byte("a late copy of its creation")))
					}
				}
				c := New(s, Options{})
				defer c.Close()
				_, err := c.Commit(within(t, budget), lock("mine"))
				var e *dcs.Error
				if !errors.As(err, &e) || e.Kind != dcs.ErrAmbiguous || !e.Fenced {
					return fmt.Errorf("got %w, want Fenced", err)
				}
				if _, err := c.Settle(within(t, budget), e); !errors.Is(err, e) {
					return fmt.Errorf("settling the final error: %w", err)
				}
				s.after, s.script = nil, nil
				_, err = c.Commit(within(t, budget), put("next", "1"))
				return err
			})
		})
	}
}

// A single copy that was answered cannot have been applied. The marker is created again.
func TestP11LostMarkerIsRemade(t *testing.T) {
	run(t, func(t *testing.T) {
		s := newStore()
		c := New(s, Options{})
		defer c.Close()
		for i := range 3 {
			if _, err := c.Commit(within(t, budget), put("x", "1")); err != nil {
				t.Fatal(err)
			}
			before := s.tree.Snapshot(".op").Entries[0].Key
			s.loseMarkers()
			if i == 1 {
				s.write(dcs.Put(before, []byte("another incarnation")))
			}
		}
		if n := s.sent[fencing]; n != 0 {
			t.Fatalf("%d fences although the copy was answered", n)
		}
	})
}

// An attempt is applied with an unknown outcome. If its slot were used again, settling
// would not find its nonce.
func TestP12AmbiguousSlotOnlySettles(t *testing.T) {
	runErr(t, func(t *testing.T) error {
		s := newStore()
		o := hedged()
		o.Slots = 1
		c := New(s, o)
		defer c.Close()
		s.script = func(k kindOfRequest, _ Request) step {
			if k == create {
				return answer
			}
			if k == commit && s.sent[commit] == 0 {
				return lose
			}
			return swallow
		}
		_, err := c.Commit(within(t, budget), lock("mine"))
		var e *dcs.Error
		if !errors.As(err, &e) || e.Kind != dcs.ErrAmbiguous || e.Attempt == nil {
			return fmt.Errorf("got %w, want an attempt to settle later", err)
		}
		s.script = nil
		if _, err := c.Commit(within(t, budget), put("x", "1")); err != nil {
			return err
		}
		fences := s.sent[fencing]
		rev, err := c.Settle(within(t, budget), e)
		if err != nil {
			return err
		}
		if l, _ := s.tree.Get("lock"); l.Created != rev {
			return fmt.Errorf("settled as %d, want %d", rev, l.Created)
		}
		if s.sent[fencing] != fences {
			return errors.New("the attempt was settled twice")
		}
		return nil
	})
}

// While every slot has an unsettled attempt, only requests that settle are sent.
func TestP12NoSlotNothingSent(t *testing.T) {
	run(t, func(t *testing.T) {
		s := newStore()
		c := New(s, Options{Slots: 1})
		defer c.Close()
		s.script = always(swallow, commit, fencing)
		_, err := c.Commit(within(t, budget), lock("mine"))
		if err := kindIs(err, dcs.ErrAmbiguous); err != nil {
			t.Fatal(err)
		}
		sent := s.sent[commit]
		_, err = c.Commit(within(t, budget), put("x", "1"))
		if err := kindIs(err, dcs.ErrUnavailable); err != nil {
			t.Fatal(err)
		}
		if s.sent[commit] != sent {
			t.Fatal("a request was sent on a slot that is not settled")
		}
	})
}

// A copy is applied and its answer is lost. The next one must not be applied again.
func TestP13ResentCopiesLandOnce(t *testing.T) {
	runErr(t, func(t *testing.T) error {
		s := newStore()
		s.script = onCopies(lose)
		c := New(s, Options{})
		defer c.Close()
		rev, err := c.Commit(within(t, budget), put("x", "mine"))
		if err != nil {
			return err
		}
		if e, _ := s.tree.Get("x"); e.Created != e.Modified || e.Modified != rev {
			return fmt.Errorf("applied at %d and again at %d, answered %d", e.Created, e.Modified, rev)
		}
		if s.sent[commit] != 2 {
			return fmt.Errorf("%d copies", s.sent[commit])
		}
		return nil
	})
}

func leased(l dcs.LeaseID) dcs.Txn {
	return dcs.Txn{Then: []dcs.Write{dcs.PutLeased("member", nil, l)}}
}

func TestP14DeadLeaseIsLost(t *testing.T) {
	runErr(t, func(t *testing.T) error {
		s := newStore()
		c := New(s, Options{})
		defer c.Close()
		_, err := c.Commit(within(t, budget), leased("dead"))
		if v := s.value("member"); v != "(absent)" {
			return errors.New("the member key was written")
		}
		return kindIs(err, dcs.ErrLost)
	})
}

// A dead lease is definite only if every copy was answered so, because a late copy of the
// lease's Grant may make it live again.
func TestP10HedgedDeadLeaseNeverLands(t *testing.T) {
	runErr(t, func(t *testing.T) error {
		s := newStore()
		s.script = onCopies(hold)
		c := New(s, hedged())
		defer c.Close()
		_, err := c.Commit(within(t, budget), leased("dead"))
		if err := kindIs(err, dcs.ErrLost); err != nil {
			return err
		}
		s.tree.Grant("dead")
		s.land()
		if v := s.value("member"); v != "(absent)" {
			return errors.New("applied after a definite failure")
		}
		return nil
	})
}

// The lease ended after the attempt was applied with it. The Commit succeeds.
func TestP9MarkerBeforeLease(t *testing.T) {
	runErr(t, func(t *testing.T) error {
		s := newStore()
		s.tree.Grant("l")
		s.script = onCopies(repeat)
		ended := false
		s.script = func(k kindOfRequest, r Request) step {
			if k != commit {
				return answer
			}
			if !ended { // the copy is applied, then the lease ends, then the copy arrives again
				ended = true
				_, _ = s.apply(r)
				s.tree.EndLease(s.tree.Revision()+1, "l")
			}
			return answer
		}
		c := New(leaseFirst{s}, Options{})
		defer c.Close()
		_, err := c.Commit(within(t, budget), leased("l"))
		return err
	})
}

// leaseFirst is a store that checks the lease before the conditions.
type leaseFirst struct{ *store }

func (s leaseFirst) Send(ctx context.Context, r Request) (Answer, error) {
	a, err := s.store.Send(ctx, r)
	if a.Outcome == Refused && r.Txn.Lease() != "" && !s.tree.Live(r.Txn.Lease()) {
		a.Outcome = LeaseLost
	}
	return a, err
}

func TestP14RefusedByAllIsUnavailable(t *testing.T) {
	noSpace := errors.New("no space left")
	for name, only := range map[string]error{
		"nobody listens": nil,
		"full store":     &dcs.Error{Kind: dcs.ErrUnavailable, Err: noSpace},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T) {
				s := newStore()
				s.only = only
				s.script = always(down, commit)
				c := New(s, hedged())
				defer c.Close()
				start := time.Now()
				_, err := c.Commit(within(t, budget), lock("mine"))
				if err := kindIs(err, dcs.ErrUnavailable); err != nil {
					t.Fatal(err)
				}
				want := "dcs: Commit: store unavailable: no space left"
				if only != nil && (!errors.Is(err, noSpace) || err.Error() != want || time.Since(start) > time.Second) {
					t.Fatalf("after %v: %v; want the cause, once and at once", time.Since(start), err)
				}
				if s.sent[fencing] != 0 {
					t.Fatal("a fence was sent although none is needed")
				}
				synctest.Wait()
			})
		})
	}
}

// A store that can check only Modified gets no other condition, also if a condition on
// Created requires absence.
func TestModifiedOnlyNeverSendsCreated(t *testing.T) {
	run(t, func(t *testing.T) {
		s := newStore()
		there := s.write(dcs.Put("there", []byte("x")))
		c := New(s, Options{ModifiedOnly: true})
		defer c.Close()
		s.script = func(_ kindOfRequest, r Request) step {
			for _, cond := range r.Txn.If {
				if cond.On != dcs.Modified {
					t.Errorf("sent %+v", cond)
				}
			}
			return answer
		}
		for _, conds := range [][]dcs.Cond{
			{dcs.CreatedAt("new", 0)},
			{dcs.CreatedAt("newer", 0), dcs.CreatedAt("there", there)},
		} {
			txn := dcs.Txn{If: conds, Then: []dcs.Write{dcs.Put(conds[0].Key, nil)}}
			if _, err := c.Commit(within(t, budget), txn); err != nil {
				t.Fatal(err)
			}
			_, err := c.Commit(within(t, budget), txn)
			if err := kindIs(err, dcs.ErrConflict); err != nil {
				t.Fatal(err)
			}
		}
	})
}
