package attempt

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// guarded returns a write under the lock with the given token.
func guarded(token dcs.Revision) dcs.Txn {
	return dcs.Txn{If: []dcs.Cond{dcs.CreatedAt("lock", token)}, Then: []dcs.Write{dcs.Put("x", []byte("guarded"))}}
}

// locked returns a store that checks Modified only and holds a lock, and a Committer whose
// marker exists.
func locked(t *testing.T, o Options) (*store, *Committer, dcs.Revision) {
	t.Helper()
	s := newStore()
	token := s.write(dcs.Put("lock", nil))
	o.ModifiedOnly = true
	c := New(s, o)
	if _, err := c.Commit(within(t, budget), put("x", "1")); err != nil {
		t.Fatal(err)
	}
	return s, c, token
}

// A condition on Created is resolved by a read before anything is sent. If the read fails,
// the Commit tries again. If the store refuses it, the Commit ends.
func TestReadThatResolvesFails(t *testing.T) {
	noRight := &dcs.Error{Kind: dcs.ErrUnauthorized, Err: errors.New("no right to read")}
	for name, tc := range map[string]struct {
		fails error
		want  error
	}{
		"unclassified":         {errors.New("connection reset"), nil},
		"unclassified, a kind": {&dcs.Error{Kind: dcs.ErrUnavailable, Err: errors.New("connection reset")}, nil},
		"refused by the store": {fmt.Errorf("%w: %w", ErrNotSent, noRight), dcs.ErrUnauthorized},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T) {
				s, c, token := locked(t, Options{})
				defer c.Close()
				s.refuse = tc.fails
				start := time.Now()
				_, err := c.Commit(within(t, budget), guarded(token))
				if dcs.KindOf(err) != tc.want || time.Since(start) > time.Second {
					t.Fatalf("after %v: %v, want %v at once", time.Since(start), err, tc.want)
				}
			})
		})
	}
}

// Nothing was sent while the condition was unresolved, so no fence is needed.
func TestUnresolvedConditionIsNotSent(t *testing.T) {
	run(t, func(t *testing.T) {
		s, c, token := locked(t, Options{})
		defer c.Close()
		s.cutOff = true
		_, err := c.Commit(within(t, budget), guarded(token))
		if err := kindIs(err, dcs.ErrUnavailable); err != nil || s.sent[commit] != 1 || s.sent[fencing] != 0 {
			t.Fatalf("%v, sent %v", err, s.sent)
		}
	})
}

// contrary refuses every Commit although all its conditions hold.
type contrary struct {
	*store
	copies int
	stop   func()
}

func (s *contrary) Send(ctx context.Context, r Request) (Answer, error) {
	if kindOf(r) != commit {
		return s.store.Send(ctx, r)
	}
	if s.copies++; s.copies > 1000 {
		s.stop()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return Answer{Outcome: Refused, Seen: true, Entries: s.entries(r.Keys())}, nil
}

// A store that refuses without a reason is tried again with pauses.
func TestRefusedForNothing(t *testing.T) {
	run(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), budget)
		defer cancel()
		s := &contrary{store: newStore(), stop: cancel}
		c := New(s, Options{Rand: rand.NewChaCha8([32]byte{1})})
		defer c.Close()
		_, err := c.Commit(ctx, put("x", "1"))
		if err := kindIs(err, dcs.ErrUnavailable); err != nil {
			t.Fatal(err)
		}
		if s.copies < 30 || s.copies > 200 {
			t.Fatalf("%d copies in 7.5 s, want pauses of up to 250 ms between them", s.copies)
		}
	})
}
