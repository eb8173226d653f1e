package attempt

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

func TestSettleLater(t *testing.T) {
	for name, tc := range map[string]struct {
		do   step
		want error
	}{
		"it had landed":          {lose, nil},
		"it never arrived":       {swallow, dcs.ErrConflict},
		"it would land later":    {hold, dcs.ErrConflict},
		"the marker is gone too": {lose, dcs.ErrAmbiguous},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T) {
				s := newStore()
				c := New(s, Options{})
				defer c.Close()
				s.script = func(k kindOfRequest, _ Request) step {
					return map[kindOfRequest]step{commit: tc.do, fencing: swallow}[k]
				}
				_, err := c.Commit(within(t, budget), lock("mine"))
				for range 2 { // a store that stays silent settles nothing
					var e *dcs.Error
					if !errors.As(err, &e) || e.Kind != dcs.ErrAmbiguous || e.Fenced || !errors.Is(err, context.DeadlineExceeded) {
						t.Fatalf("got %v", err)
					}
					_, err = c.Settle(within(t, time.Second), e)
				}
				if n := len(c.pool.ambiguous); n != 1 {
					t.Fatalf("%d attempts wait for their settling, want one", n)
				}
				s.script = nil
				if tc.want == dcs.ErrAmbiguous {
					s.loseMarkers()
				}
				var e *dcs.Error
				errors.As(err, &e)
				rev, err := c.Settle(within(t, budget), e)
				if kind := dcs.KindOf(err); kind != tc.want {
					t.Fatalf("got %v, want %v", err, tc.want)
				}
				again, err2 := c.Settle(within(t, budget), e)
				if again != rev || dcs.KindOf(err2) != tc.want {
					t.Fatalf("settled again: %d, %v after %d, %v", again, err2, rev, err)
				}
				s.land()
				if l, ok := s.tree.Get("lock"); ok != (tc.do == lose) || (tc.want == nil && l.Created != rev) {
					t.Fatalf("the lock is %+v, settled as %d, %v", l, rev, err)
				}
			})
		})
	}
}

func TestSettleFindsTheConflict(t *testing.T) {
	run(t, func(t *testing.T) {
		s := newStore()
		s.write(dcs.Put("lock", []byte("theirs")))
		c := New(s, hedged())
		defer c.Close()
		first := true
		s.script = func(k kindOfRequest, _ Request) step {
			switch {
			case k == create:
				return answer
			case k == commit && !first:
				return answer
			}
			first = false
			return hold
		}
		_, err := c.Commit(within(t, budget), lock("mine"))
		var e *dcs.Error
		if !errors.As(err, &e) || e.Kind != dcs.ErrAmbiguous {
			t.Fatalf("got %v, want the unanswered copy to count", err)
		}
		s.script = nil
		_, err = c.Settle(within(t, budget), e)
		if !errors.As(err, &e) || e.Kind != dcs.ErrConflict || e.Current == nil || e.Op != "Settle" {
			t.Fatalf("got %+v", e)
		}
	})
}

// A copy that was answered with a conflict may arrive again and find the lock free.
func TestDuplicatesNeedTheMarkerForAFailure(t *testing.T) {
	for _, duplicates := range []bool{true, false} {
		run(t, func(t *testing.T) {
			s := newStore()
			s.write(dcs.Put("lock", []byte("theirs")))
			s.script = func(k kindOfRequest, r Request) step {
				if k == commit {
					s.held = append(s.held, func() { _, _ = s.apply(r) })
				}
				return answer
			}
			c := New(s, Options{Duplicates: duplicates})
			defer c.Close()
			_, err := c.Commit(within(t, budget), lock("mine"))
			if err := kindIs(err, dcs.ErrConflict); err != nil {
				t.Fatal(err)
			}
			s.write(dcs.Delete("lock"))
			s.land()
			if v := s.value("lock"); (v == "(absent)") != duplicates {
				t.Fatalf("Duplicates %v: the lock is %q after a definite failure", duplicates, v)
			}
			s.script = nil
			s.loseMarkers()
			_, err = c.Commit(within(t, budget), put("x", "1"))
			if fenced := errors.Is(err, dcs.ErrAmbiguous); fenced != duplicates {
				t.Fatalf("Duplicates %v: a lost marker is %v", duplicates, err)
			}
		})
	}
}

func TestSettleOfAForeignError(t *testing.T) {
	run(t, func(t *testing.T) {
		a, b := New(newStore(), Options{}), New(newStore(), Options{})
		defer a.Close()
		defer b.Close()
		for _, e := range []*dcs.Error{
			{Kind: dcs.ErrAmbiguous},
			{Kind: dcs.ErrAmbiguous, Attempt: "nonsense"},
			{Kind: dcs.ErrAmbiguous, Attempt: &pendingAttempt{c: b}},
		} {
			if _, err := a.Settle(within(t, budget), e); dcs.KindOf(err) != dcs.ErrInvalid {
				t.Errorf("got %v", err)
			}
		}
	})
}

func TestWaiterSettlesNewAmbiguousAttempts(t *testing.T) {
	run(t, func(t *testing.T) {
		s := newStore()
		c := New(s, Options{Slots: 1})
		defer c.Close()
		s.script = func(k kindOfRequest, r Request) step {
			if k == create || (k == commit && r.Txn.Then[0].Key == "y") || time.Since(s.start) > 11*time.Second {
				return answer
			}
			return swallow
		}
		go func() { _, _ = c.Commit(within(t, budget), put("x", "1")) }()
		synctest.Wait()
		if _, err := c.Commit(within(t, time.Minute), put("y", "1")); err != nil {
			t.Fatal(err)
		}
		if s.value("x") != "(absent)" {
			t.Fatal("an attempt was applied after it was settled as a definite failure")
		}
	})
}

func TestWaitingForASlotEndsWithTheContext(t *testing.T) {
	run(t, func(t *testing.T) {
		s := newStore()
		c := New(s, Options{Slots: 1})
		s.script = always(swallow, commit, fencing)
		go func() { _, _ = c.Commit(within(t, time.Hour), put("x", "1")) }()
		synctest.Wait()
		_, err := c.Commit(within(t, time.Second), put("y", "1"))
		if err := kindIs(err, dcs.ErrUnavailable); err != nil {
			t.Fatal(err)
		}
		c.Close()
		synctest.Wait()
	})
}

func TestManyCommitsShareSlots(t *testing.T) {
	run(t, func(t *testing.T) {
		s := newStore()
		c := New(slow{s}, Options{Slots: 4})
		defer c.Close()
		if _, err := c.Commit(within(t, budget), put("counter", "0")); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 32 {
			wg.Go(func() {
				for {
					e, _ := s.tree.Get("counter")
					n, _ := strconv.Atoi(string(e.Value))
					_, err := c.Commit(within(t, time.Hour), dcs.Txn{
						If:   []dcs.Cond{dcs.ModifiedAt("counter", e.Modified)},
						Then: []dcs.Write{dcs.Put("counter", []byte(strconv.Itoa(n+1)))},
					})
					if err == nil {
						return
					}
					if dcs.KindOf(err) != dcs.ErrConflict {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		if v := s.value("counter"); v != "32" {
			t.Fatalf("counted to %s", v)
		}
		if n := len(s.tree.Snapshot(".op").Entries); n != 4 {
			t.Fatalf("%d markers", n)
		}
	})
}

// slow takes a millisecond each way.
type slow struct{ *store }

func (s slow) Send(ctx context.Context, r Request) (Answer, error) {
	time.Sleep(time.Millisecond)
	a, err := s.store.Send(ctx, r)
	time.Sleep(time.Millisecond)
	return a, err
}

// A caller may change its buffers as soon as Commit has returned, also if a copy is still
// on its way.
func TestLateCopyCarriesTheCommittedValue(t *testing.T) {
	run(t, func(t *testing.T) {
		s := newStore()
		c := New(s, Options{})
		defer c.Close()
		s.script = func(k kindOfRequest, _ Request) step {
			return map[kindOfRequest]step{commit: hold, fencing: swallow}[k]
		}
		txn := lock("mine")
		_, err := c.Commit(within(t, time.Second), txn)
		if err := kindIs(err, dcs.ErrAmbiguous); err != nil {
			t.Fatal(err)
		}
		copy(txn.Then[0].Value, "xxxx")
		txn.Then[0].Key = "other"
		s.land()
		if v := s.value("lock"); v != "mine" {
			t.Errorf("the late copy wrote %q", v)
		}
	})
}
