package memstore

import (
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// A second copy of a Grant finds the lease. It neither grants another one nor extends it,
// because it is no renewal.
func TestSecondCopyOfAGrantExtendsNothing(t *testing.T) {
	pair(t, Options{}, func(t *testing.T, s *Server, a, b *Backend) {
		s.Inject(Match{Op: OpGrant}, Duplicate(2*time.Second), Once())
		l, r, err := a.Grant(budget(t), 3*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		mustCommit(t, a, dcs.Txn{Then: []dcs.Write{dcs.PutLeased("x", nil, l.ID())}})
		time.Sleep(2500 * time.Millisecond)
		if leases := s.Leases(); len(leases) != 1 || leases[0].Left > 500*time.Millisecond {
			t.Fatalf("after the second copy: %+v", leases)
		}
		time.Sleep(r.Expiry - 2500*time.Millisecond + time.Millisecond)
		_, err = b.Get(budget(t), "x")
		wantKind(t, err, dcs.ErrNotFound)
	})
}

// P1: a renewal counts from the sending of the copy that was answered.
func TestP1RenewalOfASecondCopy(t *testing.T) {
	pair(t, Options{}, func(t *testing.T, s *Server, a, _ *Backend) {
		l, _, err := a.Grant(budget(t), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		s.Inject(Match{Op: OpRenew}, Hang(), Once())
		start := time.Now()
		r, err := l.Renew(budget(t))
		if err != nil || time.Since(start) < time.Second || r.From.Elapsed() != 0 {
			t.Fatalf("after %v: %v, counted from %v ago, want the second copy's sending", time.Since(start), err, r.From.Elapsed())
		}
	})
}

// A Grant is ambiguous if any of its copies may have been applied, not only the last one.
func TestGrantWithOneAmbiguousCopy(t *testing.T) {
	pair(t, Options{}, func(t *testing.T, s *Server, a, _ *Backend) {
		s.Inject(Match{Op: OpGrant, When: func(c Call) bool { return c.Copy == 0 }}, Hang())
		s.Inject(Match{Op: OpGrant, When: func(c Call) bool { return c.Copy > 0 }}, Full())
		_, _, err := a.Grant(budget(t), time.Hour)
		wantKind(t, err, dcs.ErrAmbiguous)
	})
}

func TestRenewalsEntriesAreSorted(t *testing.T) {
	pair(t, Options{}, func(t *testing.T, _ *Server, a, _ *Backend) {
		l, _, err := a.Grant(budget(t), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		mustCommit(t, a, dcs.Txn{Then: []dcs.Write{dcs.Put("a", nil), dcs.Put("b", nil), dcs.Put("c", nil)}})
		r, err := l.Renew(budget(t), "c", "a", "absent", "b")
		if err != nil || len(r.Entries) != 3 {
			t.Fatalf("got %+v, %v", r, err)
		}
		for i, key := range []string{"a", "b", "c"} {
			if r.Entries[i].Key != key {
				t.Errorf("entry %d is %q, want %q", i, r.Entries[i].Key, key)
			}
		}
	})
}

// A lease's timer may fire just before a renewal, or the end of the server, takes the lock
// for which the timer waits.
func TestTimerThatFiredTooEarly(t *testing.T) {
	pair(t, Options{}, func(t *testing.T, s *Server, a, _ *Backend) {
		if _, _, err := a.Grant(budget(t), 3*time.Second); err != nil {
			t.Fatal(err)
		}
		fire := func() {
			for _, l := range s.root("default").leases {
				s.root("default").expire(l)
			}
		}
		time.Sleep(2 * time.Second)
		fire()
		if n := len(s.Leases()); n != 1 {
			t.Fatal("the lease ended before its time was over")
		}
		s.Down()
		time.Sleep(time.Minute)
		fire()
		if n := len(s.Leases()); n != 1 {
			t.Fatal("the lease ended while the server was down")
		}
		s.Up()
		time.Sleep(3*time.Second + time.Millisecond)
		if n := len(s.Leases()); n != 0 {
			t.Fatal("the lease did not end")
		}
	})
}
