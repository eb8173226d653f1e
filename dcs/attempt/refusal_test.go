package attempt

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// If requests may arrive twice, a refused copy may be applied at its second arrival, also
// if the reason for the refusal cannot be read. A definite failure needs the marker.
func TestP10DuplicatesOfAnUnreadRefusal(t *testing.T) {
	for name, tc := range map[string]struct {
		txn    dcs.Txn
		allow  func(s *store) // makes a second arrival succeed
		silent bool           // no fence of the Commit arrives
		want   error
	}{
		"a condition failed":              {lock("mine"), unlock, false, dcs.ErrUnavailable},
		"a dead lease":                    {leased("dead"), grant, false, dcs.ErrUnavailable},
		"a condition failed, not settled": {lock("mine"), unlock, true, dcs.ErrAmbiguous},
		"a dead lease, not settled":       {leased("dead"), grant, true, dcs.ErrAmbiguous},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T) {
				s := newStore()
				s.write(dcs.Put("lock", []byte("theirs")))
				c := New(s, Options{Duplicates: true, Slots: 1})
				defer c.Close()
				if _, err := c.Commit(within(t, budget), put("x", "1")); err != nil {
					t.Fatal(err)
				}
				s.unseen, s.cutOff = true, true
				s.script = func(k kindOfRequest, r Request) step {
					switch {
					case k == commit:
						s.held = append(s.held, func() { _, _ = s.apply(r) })
					case k == fencing && tc.silent:
						return swallow
					}
					return answer
				}
				_, err := c.Commit(within(t, budget), tc.txn)
				if err := kindIs(err, tc.want); err != nil {
					t.Error(err)
				}
				s.script = nil
				var e *dcs.Error
				if errors.As(err, &e) && e.Kind == dcs.ErrAmbiguous {
					_, err = c.Settle(within(t, budget), e)
					if err := kindIs(err, dcs.ErrConflict); err != nil {
						t.Error(err)
					}
				}
				tc.allow(s)
				s.land()
				if v := s.value(tc.txn.Then[0].Key); v != "(absent)" {
					t.Errorf("%s is %q after a definite failure", tc.txn.Then[0].Key, v)
				}
			})
		})
	}
}

func unlock(s *store) { s.write(dcs.Delete("lock")) }
func grant(s *store)  { s.tree.Grant("dead") }

// A copy that was not sent cannot arrive twice. No fence is needed, and a marker that such
// a copy finds lost is created again.
func TestP10DuplicatesOfAnUnsentCopy(t *testing.T) {
	noRight := &dcs.Error{Kind: dcs.ErrUnauthorized, Err: errors.New("no right to read")}
	for name, tc := range map[string]struct {
		prepare func(s *store)
		want    error
	}{
		"the read is refused":               {func(s *store) { s.refuse = fmt.Errorf("%w: %w", ErrNotSent, noRight) }, dcs.ErrUnauthorized},
		"no read succeeds":                  {func(s *store) { s.cutOff = true }, dcs.ErrUnavailable},
		"another incarnation":               {retake, dcs.ErrConflict},
		"another incarnation and no marker": {func(s *store) { retake(s); s.loseMarkers() }, dcs.ErrConflict},
		"the transport is closed": {func(s *store) {
			s.only = dcs.ErrClosed
			s.script = always(down, commit, fencing)
		}, dcs.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T) {
				s, c, token := locked(t, Options{Duplicates: true})
				defer c.Close()
				tc.prepare(s)
				_, err := c.Commit(within(t, budget), guarded(token))
				if err := kindIs(err, tc.want); err != nil || s.sent[fencing] != 0 {
					t.Errorf("%v, sent %v; want no fence", err, s.sent)
				}
			})
		})
	}
}

// retake makes the lock another client's.
func retake(s *store) {
	s.write(dcs.Delete("lock"))
	s.write(dcs.Put("lock", []byte("theirs")))
}

// leaseless is a store that refuses the first fence because of its lease, without
// reporting the marker.
type leaseless struct {
	*store
	refused bool
}

func (s *leaseless) Send(ctx context.Context, r Request) (Answer, error) {
	if kindOf(r) == fencing && !s.refused {
		s.refused = true
		return Answer{Outcome: LeaseLost}, nil
	}
	return s.store.Send(ctx, r)
}

// A fence that is refused because of its lease proves nothing about the marker, which is
// then read.
func TestP11FenceRefusedForItsLease(t *testing.T) {
	run(t, func(t *testing.T) {
		s := &leaseless{store: newStore()}
		s.script = always(hold, commit)
		c := New(s, Options{})
		defer c.Close()
		_, err := c.Commit(within(t, budget), lock("mine"))
		if err := kindIs(err, dcs.ErrUnavailable); err != nil || !s.refused {
			t.Error(err)
		}
		s.land()
		if v := s.value("lock"); v != "(absent)" {
			t.Errorf("the lock is %q after the report that nothing can be applied any more", v)
		}
	})
}

// kinds are all sentinels of package dcs.
var kinds = []error{
	dcs.ErrNotFound, dcs.ErrConflict, dcs.ErrLost, dcs.ErrReleased, dcs.ErrUnavailable, dcs.ErrExpired,
	dcs.ErrAmbiguous, dcs.ErrUnauthorized, dcs.ErrInvalid, dcs.ErrClosed,
}

// failing is a store that does not answer the first copy of a Commit. All later requests
// fail with err, until that is nil.
type failing struct {
	*store
	err    error
	copies int
}

func (s *failing) Send(ctx context.Context, r Request) (Answer, error) {
	s.mu.Lock()
	err, first := s.err, s.copies == 0
	if kindOf(r) == commit {
		s.copies++
	}
	s.mu.Unlock()
	switch {
	case err == nil || kindOf(r) == create:
		return s.store.Send(ctx, r)
	case first:
		<-ctx.Done()
		return Answer{}, ctx.Err()
	}
	return Answer{}, err
}

// One copy is unanswered, and the others fail with an error of some kind. Once the marker
// is taken, Settle returns a definite failure that matches one kind only, also if another
// Commit that needed the slot has taken the marker.
func TestP11SettleReturnsADefiniteFailure(t *testing.T) {
	for _, kind := range kinds {
		refused := fmt.Errorf("%w: %w", ErrNotSent, kind)
		for _, err := range []error{refused, fmt.Errorf("odd: %w", kind)} {
			want := dcs.ErrConflict
			if kind == dcs.ErrLost && errors.Is(err, ErrNotSent) {
				want = dcs.ErrLost
			}
			for _, byCommit := range []bool{false, true} {
				t.Run(fmt.Sprintf("%v, another Commit %v", err, byCommit), func(t *testing.T) {
					run(t, func(t *testing.T) { settleFinally(t, err, want, byCommit) })
				})
			}
		}
	}
}

func settleFinally(t *testing.T, fault, want error, byCommit bool) {
	t.Helper()
	s := &failing{store: newStore(), err: fault}
	o := hedged()
	o.Slots = 1
	c := New(s, o)
	defer c.Close()
	_, err := c.Commit(within(t, budget), put("x", "1"))
	var e *dcs.Error
	if !errors.As(err, &e) || e.Kind != dcs.ErrAmbiguous || e.Attempt == nil {
		t.Fatalf("got %v, want an attempt to settle later", err)
	}
	s.mu.Lock()
	s.err = nil
	s.mu.Unlock()
	if byCommit {
		if _, err := c.Commit(within(t, budget), put("y", "1")); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		_, err = c.Settle(within(t, budget), e)
		for _, k := range kinds {
			if errors.Is(err, k) != (k == want) {
				t.Errorf("Settle returned %v, which must match %v only", err, want)
			}
		}
	}
	if n := s.sent[fencing]; n != 1 {
		t.Errorf("settled with %d fences, want one", n)
	}
}
