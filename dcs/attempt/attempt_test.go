package attempt

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

func TestCommitCostsOneRequestOnceTheMarkerIsThere(t *testing.T) {
	run(t, func(t *testing.T) {
		s := newStore()
		c := New(s, hedged())
		defer c.Close()
		for i := range 20 {
			rev, err := c.Commit(within(t, budget), put("x", strconv.Itoa(i)))
			if e, _ := s.tree.Get("x"); err != nil || e.Modified != rev {
				t.Fatalf("got %d, %v; want %d", rev, err, e.Modified)
			}
		}
		if s.sent[create] != 1 || s.sent[commit] != 20 || s.sent[fencing] != 0 || s.reads != 1 {
			t.Fatalf("sent %v, %d reads", s.sent, s.reads)
		}
	})
}

func TestDeleteReturnsItsRevision(t *testing.T) {
	run(t, func(t *testing.T) {
		s := newStore()
		c := New(s, Options{})
		defer c.Close()
		for range 2 { // the second time of an absent key
			rev, err := c.Commit(within(t, budget), dcs.Txn{Then: []dcs.Write{dcs.Delete("x")}})
			if err != nil || rev != s.tree.Revision() {
				t.Fatalf("got %d, %v; want %d", rev, err, s.tree.Revision())
			}
		}
	})
}

func TestConflictCarriesTheEntryFound(t *testing.T) {
	for _, unseen := range []bool{false, true} {
		run(t, func(t *testing.T) {
			s := newStore()
			s.unseen = unseen
			first := s.write(dcs.Put("a", nil))
			s.write(dcs.Put("b", []byte("b's")))
			c := New(s, Options{Backend: "fake"})
			defer c.Close()
			_, err := c.Commit(within(t, budget), dcs.Txn{
				If:   []dcs.Cond{dcs.ModifiedAt("a", first), dcs.CreatedAt("b", first)},
				Then: []dcs.Write{dcs.Put("c", nil)},
			})
			var e *dcs.Error
			if !errors.As(err, &e) || e.Kind != dcs.ErrConflict || e.Key != "b" || e.Current == nil || string(e.Current.Value) != "b's" || e.Backend != "fake" {
				t.Fatalf("got %+v", e)
			}
			_, err = c.Commit(within(t, budget), dcs.Txn{If: []dcs.Cond{dcs.ModifiedAt("gone", 1)}, Then: []dcs.Write{dcs.Put("c", nil)}})
			if !errors.As(err, &e) || e.Kind != dcs.ErrConflict || e.Key != "gone" || e.Current != nil {
				t.Fatalf("got %+v", e)
			}
		})
	}
}

func TestInvalidEndsAtOnce(t *testing.T) {
	run(t, func(t *testing.T) {
		s := newStore()
		s.write(dcs.Put("a", nil))
		c := New(s, Options{})
		defer c.Close()
		_, err := c.Commit(within(t, budget), put("a/b", ""))
		if err := kindIs(err, dcs.ErrInvalid); err != nil {
			t.Fatal(err)
		}
		if s.sent[commit] != 1 {
			t.Fatalf("%d copies of a request that can never succeed", s.sent[commit])
		}
	})
}

func TestHedgeGoesOutInTime(t *testing.T) {
	run(t, func(t *testing.T) {
		s := newStore()
		c := New(s, hedged())
		defer c.Close()
		s.script = onCopies(swallow)
		start := time.Now()
		if _, err := c.Commit(within(t, budget), put("x", "1")); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d != 100*time.Millisecond {
			t.Fatalf("answered after %v, want the hedge delay", d)
		}
		s.at, s.start = nil, time.Now()
		s.script = always(swallow, commit, fencing)
		_, err := c.Commit(within(t, budget), put("x", "1"))
		if err := kindIs(err, dcs.ErrAmbiguous); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start) - 100*time.Millisecond; d != budget {
			t.Fatalf("returned after %v, want its deadline", d)
		}
		if last := s.at[len(s.at)-1]; last > budget*3/4 {
			t.Fatalf("a copy was sent %v into the budget, in the time for settling", last)
		}
	})
}

func TestUnclassifiedErrorsAreRetried(t *testing.T) {
	run(t, func(t *testing.T) {
		s := newStore()
		s.script = onCopies(broken, down, broken, broken, down)
		c := New(s, Options{})
		defer c.Close()
		if _, err := c.Commit(within(t, budget), put("x", "1")); err != nil {
			t.Fatal(err)
		}
		if s.sent[commit] != 6 || s.at[5] > time.Second {
			t.Fatalf("copies at %v", s.at)
		}
	})
}

func TestCancelAndClose(t *testing.T) {
	for name, tc := range map[string]struct {
		do   step
		kind error // of a Commit that is cancelled
	}{"something is out": {swallow, dcs.ErrAmbiguous}, "nothing was sent": {down, dcs.ErrUnavailable}} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T) {
				s := newStore()
				c := New(s, hedged())
				s.script = always(tc.do, commit, fencing)
				ctx, cancel := context.WithTimeout(context.Background(), budget)
				time.AfterFunc(time.Second, cancel)
				start := time.Now()
				_, err := c.Commit(ctx, lock("mine"))
				if !errors.Is(err, context.Canceled) || dcs.KindOf(err) != tc.kind || time.Since(start) != time.Second {
					t.Fatalf("after %v: %v", time.Since(start), err)
				}
				time.AfterFunc(time.Second, func() { c.Close() })
				_, err = c.Commit(within(t, budget), lock("mine"))
				if !errors.Is(err, dcs.ErrClosed) || errors.Is(err, dcs.ErrAmbiguous) != (tc.do == swallow) {
					t.Fatalf("cut short by Close: %v", err)
				}
				if tc.do == down && dcs.KindOf(err) != dcs.ErrClosed {
					t.Fatalf("cut short by Close with nothing sent: %v", err)
				}
				if err := c.Close(); err != nil {
					t.Fatal(err)
				}
				if _, err = c.Commit(within(t, budget), lock("mine")); dcs.KindOf(err) != dcs.ErrClosed {
					t.Fatalf("after Close: %v", err)
				}
			})
		})
	}
}

func TestContextWithoutDeadline(t *testing.T) {
	run(t, func(t *testing.T) {
		s := newStore()
		s.script = onCopies(swallow, broken, swallow)
		c := New(s, Options{})
		defer c.Close()
		if _, err := c.Commit(context.Background(), put("x", "1")); err != nil {
			t.Fatal(err)
		}
		if s.sent[commit] != 4 {
			t.Fatalf("%d copies", s.sent[commit])
		}
	})
}

func TestModifiedOnly(t *testing.T) {
	o := Options{ModifiedOnly: true}
	guarded := func(token dcs.Revision) dcs.Txn {
		return dcs.Txn{If: []dcs.Cond{dcs.CreatedAt("lock", token)}, Then: []dcs.Write{dcs.Put("x", []byte("guarded"))}}
	}
	t.Run("a token that holds passes though the value changes", func(t *testing.T) {
		run(t, func(t *testing.T) {
			s := newStore()
			token := s.write(dcs.Put("lock", nil))
			s.script = func(k kindOfRequest, r Request) step {
				for _, cond := range r.Txn.If {
					if cond.On != dcs.Modified {
						t.Errorf("a condition on Created was sent: %+v", cond)
					}
				}
				if k == commit && s.sent[commit] < 5 { // rewritten between read and copy
					s.write(dcs.Put("lock", []byte(strconv.Itoa(s.sent[commit]))))
				}
				return answer
			}
			c := New(s, o)
			defer c.Close()
			if _, err := c.Commit(within(t, budget), guarded(token)); err != nil {
				t.Fatal(err)
			}
			if s.sent[commit] != 6 {
				t.Fatalf("%d copies", s.sent[commit])
			}
		})
	})
	t.Run("another incarnation is a conflict", func(t *testing.T) {
		run(t, func(t *testing.T) {
			s := newStore()
			token := s.write(dcs.Put("lock", nil))
			s.write(dcs.Delete("lock"))
			s.write(dcs.Put("lock", []byte("theirs")))
			c := New(s, o)
			defer c.Close()
			_, err := c.Commit(within(t, budget), guarded(token))
			var e *dcs.Error
			if !errors.As(err, &e) || e.Kind != dcs.ErrConflict || e.Current == nil || string(e.Current.Value) != "theirs" {
				t.Fatalf("got %v", err)
			}
			if s.sent[commit] != 0 {
				t.Fatal("the copy was sent although the read had decided it")
			}
		})
	})
	t.Run("an own copy that landed unseen is a yes", func(t *testing.T) {
		run(t, func(t *testing.T) {
			s := newStore()
			token := s.write(dcs.Put("lock", nil))
			s.script = onCopies(lose)
			c := New(s, o)
			defer c.Close()
			rev, err := c.Commit(within(t, budget), dcs.Txn{
				If: []dcs.Cond{dcs.CreatedAt("lock", token)}, Then: []dcs.Write{dcs.Delete("lock")},
			})
			if err != nil || rev == 0 || s.sent[commit] != 1 {
				t.Fatalf("got %d, %v with %d copies", rev, err, s.sent[commit])
			}
		})
	})
}

func TestRefusalThatCannotBeRead(t *testing.T) {
	for _, silent := range []bool{false, true} {
		run(t, func(t *testing.T) {
			s := newStore()
			c := New(s, Options{})
			defer c.Close()
			if _, err := c.Commit(within(t, budget), lock("mine")); err != nil {
				t.Fatal(err)
			}
			s.unseen, s.noReads, s.cutOff = true, silent, !silent
			_, err := c.Commit(within(t, budget), lock("mine"))
			if err := kindIs(err, dcs.ErrUnavailable); err != nil {
				t.Fatal(err) // refused for an unknown reason: neither a conflict nor ambiguous
			}
			if !silent && s.sent[fencing] != 0 { // a silent read may be unanswered at the end
				t.Fatalf("%d fences although every copy was refused", s.sent[fencing])
			}
		})
	}
}

func TestMarkerCreationIsRepeatable(t *testing.T) {
	for _, do := range []step{lose, swallow, broken, down, repeat, vague} {
		run(t, func(t *testing.T) {
			s := newStore()
			s.script = func(k kindOfRequest, _ Request) step {
				if k == create && s.sent[create] == 0 {
					return do
				}
				return answer
			}
			c := New(s, Options{Rand: rand.NewChaCha8([32]byte{1})})
			defer c.Close()
			if _, err := c.Commit(within(t, budget), lock("mine")); err != nil {
				t.Fatal(err)
			}
			if n := len(s.tree.Snapshot(".op").Entries); n != 1 || s.reads != 1 {
				t.Fatalf("%d markers after %d reads", n, s.reads)
			}
		})
	}
}

// A transport's kind does not show through the proven outcome, whether it is that of the
// Commit's copies or of the copies that create the marker.
func TestTransportKindsAreCausesOnly(t *testing.T) {
	for _, odd := range []error{
		fmt.Errorf("odd: %w", dcs.ErrLost),
		fmt.Errorf("odd: %w", dcs.ErrAmbiguous),
		fmt.Errorf("odd: %w: %w", ErrNotSent, dcs.ErrAmbiguous), // which contradict each other
	} {
		for _, on := range []kindOfRequest{commit, create} {
			run(t, func(t *testing.T) {
				c := New(&oddErrors{store: newStore(), err: odd, on: on}, Options{})
				defer c.Close()
				_, err := c.Commit(within(t, budget), lock("mine"))
				if errors.Is(err, dcs.ErrLost) || errors.Is(err, dcs.ErrAmbiguous) || dcs.KindOf(err) != dcs.ErrUnavailable {
					t.Fatalf("got %v, want a definite failure without other kinds", err)
				}
				if !strings.Contains(err.Error(), "odd") {
					t.Fatalf("the cause is missing: %v", err)
				}
			})
		}
	}
}

type oddErrors struct {
	*store
	err error
	on  kindOfRequest
}

func (o *oddErrors) Send(ctx context.Context, r Request) (Answer, error) {
	if kindOf(r) == o.on {
		o.mu.Lock()
		defer o.mu.Unlock()
		return Answer{}, o.err
	}
	return o.store.Send(ctx, r)
}

// A connection that the client closed, as those of an ejected endpoint, hides no reason.
func TestClosedConnectionHidesNoReason(t *testing.T) {
	run(t, func(t *testing.T) {
		odd := &oddErrors{store: newStore(), err: fmt.Errorf("%w: lock delay", ErrNotSent), on: commit}
		c := New(odd, Options{})
		defer c.Close()
		go func() { // ends before the Commit
			time.Sleep(budget / 2)
			odd.mu.Lock()
			defer odd.mu.Unlock()
			odd.err = fmt.Errorf("%w: read: %w", ErrNotSent, net.ErrClosed)
		}()
		_, err := c.Commit(within(t, budget), lock("mine"))
		if !errors.Is(err, dcs.ErrUnavailable) || !strings.Contains(err.Error(), "lock delay") {
			t.Fatalf("got %v, want an error that names the lock delay", err)
		}
	})
}

// lazy is a store that answers after a delay.
type lazy struct {
	*store
	takes time.Duration
	asked []Request
	at    []time.Duration
	start time.Time
}

func (s *lazy) Send(ctx context.Context, r Request) (Answer, error) {
	if len(r.Txn.Then) == 0 {
		return s.store.Send(ctx, r)
	}
	s.mu.Lock()
	s.asked, s.at = append(s.asked, r), append(s.at, time.Since(s.start))
	s.mu.Unlock()
	select {
	case <-time.After(s.takes):
		return s.store.Send(ctx, r)
	case <-ctx.Done():
		return Answer{}, ctx.Err()
	}
}

// A slow copy is not cancelled for the next one, and is answered.
func TestSlowCopyIsLeftAlone(t *testing.T) {
	run(t, func(t *testing.T) {
		s := &lazy{store: newStore(), takes: 1200 * time.Millisecond, start: time.Now()}
		asked := 0
		c := New(s, Options{
			AttemptTimeout: 1500 * time.Millisecond,
			HedgeAfter:     func() time.Duration { return 100 * time.Millisecond },
			Hedge:          func() bool { asked++; return false },
			ResendAfter:    func(_ time.Duration, round int) time.Duration { return time.Duration(round+1) * 500 * time.Millisecond },
		})
		defer c.Close()
		if _, err := c.Commit(within(t, budget), put("x", "1")); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(s.start); d != s.takes {
			t.Fatalf("answered after %v, want the first copy's answer after %v", d, s.takes)
		}
		if want := []time.Duration{0, 500 * time.Millisecond}; !slices.Equal(s.at, want) {
			t.Fatalf("copies at %v, want %v", s.at, want)
		}
		for i, r := range s.asked {
			if r.Hedge || r.Round != i || r.Copy != i {
				t.Fatalf("copy %d: %+v", i, r)
			}
		}
		if asked == 0 {
			t.Fatal("Options.Hedge was not called")
		}
	})
}
