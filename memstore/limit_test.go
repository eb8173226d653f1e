package memstore

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// limited runs body with a lease of client a that was granted for 10 s a second ago, bound
// to the key "x", on a server that has granted at most 3 s since then.
func limited(t *testing.T, o Options, body func(t *testing.T, s *Server, a *Backend, l dcs.Lease)) {
	t.Helper()
	pair(t, o, func(t *testing.T, s *Server, a, _ *Backend) {
		l, _, err := a.Grant(budget(t), 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		mustCommit(t, a, dcs.Txn{Then: []dcs.Write{dcs.PutLeased("x", nil, l.ID())}})
		s.LimitTTL(3 * time.Second)
		time.Sleep(time.Second)
		body(t, s, a, l)
	})
}

// renewal is the answer to a Renew.
type renewal struct {
	dcs.Renewal
	err error
}

// renewing sends a renewal, and returns when it is answered or on its way.
func renewing(t *testing.T, l dcs.Lease) <-chan renewal {
	t.Helper()
	answer := make(chan renewal, 1)
	go func() {
		r, err := l.Renew(budget(t))
		answer <- renewal{r, err}
	}()
	synctest.Wait()
	return answer
}

// wantTTL requires a renewal for ttl whose From lies ago in the past.
func wantTTL(t *testing.T, r renewal, ttl, ago time.Duration) {
	t.Helper()
	if r.err != nil || r.TTL != ttl || r.From.Elapsed() != ago {
		t.Fatalf("got %+v, %v; want a TTL of %v from %v ago", r.Renewal, r.err, ttl, ago)
	}
}

// wantLeft requires that the server ends its one lease in left.
func wantLeft(t *testing.T, s *Server, left time.Duration) {
	t.Helper()
	leases := s.Leases()
	if len(leases) != 1 || leases[0].Left != left {
		t.Fatalf("got %+v; want one lease with %v left", leases, left)
	}
}

func TestLimitTTL(t *testing.T) {
	limited(t, Options{ExpiryFactor: 2}, func(t *testing.T, s *Server, a *Backend, l dcs.Lease) {
		wantLeft(t, s, 19*time.Second) // without a renewal nothing changes
		r := <-renewing(t, l)
		wantTTL(t, r, 3*time.Second, 0)
		if r.Expiry != 6*time.Second {
			t.Errorf("Expiry is %v, want 6s", r.Expiry)
		}
		wantLeft(t, s, 6*time.Second)
		_, granted, err := a.Grant(budget(t), time.Minute)
		wantTTL(t, renewal{granted, err}, 3*time.Second, 0)
		s.LimitTTL(5 * time.Second)
		wantTTL(t, <-renewing(t, l), 5*time.Second, 0)
		s.LimitTTL(0)
		wantTTL(t, <-renewing(t, l), 10*time.Second, 0)
		s.LimitTTL(time.Hour)
		wantTTL(t, <-renewing(t, l), 10*time.Second, 0)
		s.LimitTTL(3 * time.Second)
		wantTTL(t, <-renewing(t, l), 3*time.Second, 0)
		time.Sleep(6*time.Second + time.Millisecond)
		wantKind(t, second(a.Get(budget(t), "x")), dcs.ErrNotFound)
		wantKind(t, second(l.Renew(budget(t))), dcs.ErrLost)
	})
}

// Caps do not change, so that a limit below MinTTL counts as MinTTL.
func TestLimitTTLKeepsToMinTTL(t *testing.T) {
	limited(t, Options{MinTTL: 4 * time.Second}, func(t *testing.T, s *Server, _ *Backend, l dcs.Lease) {
		wantTTL(t, <-renewing(t, l), 4*time.Second, 0)
		wantLeft(t, s, 4*time.Second)
	})
}

// A client does not know of an answer that it did not get. The lease keeps the longer life
// on which the client relies.
func TestShorterLifeWhoseAnswerIsLost(t *testing.T) {
	limited(t, Options{}, func(t *testing.T, s *Server, _ *Backend, l dcs.Lease) {
		lost := s.Inject(Match{Op: OpRenew}, DropReply())
		answer := renewing(t, l)
		time.Sleep(5 * time.Second)
		wantLeft(t, s, 4*time.Second)
		lost.Lift()
		wantTTL(t, <-answer, 3*time.Second, 0) // of a later copy
		wantLeft(t, s, 3*time.Second)
	})
}

// The shorter life begins with the answer, and counts from the renewal.
func TestShorterLifeBeginsWithTheAnswer(t *testing.T) {
	for _, late := range []time.Duration{time.Second, 5 * time.Second} {
		limited(t, Options{}, func(t *testing.T, s *Server, _ *Backend, _ dcs.Lease) {
			patient := s.Open(ClientOptions{Name: "patient", AttemptTimeout: time.Hour})
			defer patient.Close()
			l := &clientLease{b: patient, id: s.Leases()[0].ID}
			held := s.Inject(Match{Op: OpRenew}, HoldReply(), Once())
			answer := renewing(t, l)
			time.Sleep(late)
			wantLeft(t, s, 9*time.Second-late)
			held.Release()
			wantTTL(t, <-answer, 3*time.Second, late)
			if late > 3*time.Second {
				synctest.Wait()
				if n := len(s.Leases()); n > 0 {
					t.Fatalf("the lease still exists after a renewal for 3s, %v ago", late)
				}
				return
			}
			wantLeft(t, s, 3*time.Second-late)
		})
	}
}

// The answer to an earlier renewal shortens no later one.
func TestOvertakenAnswerShortensNothing(t *testing.T) {
	limited(t, Options{}, func(t *testing.T, s *Server, _ *Backend, l dcs.Lease) {
		held := s.Inject(Match{Op: OpRenew}, HoldReply(), Once())
		overtaken := renewing(t, l)
		time.Sleep(time.Second)
		s.LimitTTL(0)
		wantTTL(t, <-renewing(t, l), 10*time.Second, 0)
		time.Sleep(500 * time.Millisecond)
		held.Release()
		wantTTL(t, <-overtaken, 3*time.Second, 1500*time.Millisecond)
		wantLeft(t, s, 9500*time.Millisecond)
	})
}

// A renewal that arrived after another one was sent may itself have been sent later. It
// counts until a later renewal is answered.
func TestAnswerThatIsOnItsWayCounts(t *testing.T) {
	pair(t, Options{}, func(t *testing.T, s *Server, _, _ *Backend) {
		patient := s.Open(ClientOptions{Name: "patient", AttemptTimeout: time.Hour})
		defer patient.Close()
		l, _, err := patient.Grant(budget(t), 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		s.Inject(Match{Op: OpRenew}, Delay(2*time.Second), Once())
		slow := renewing(t, l)
		time.Sleep(time.Second)
		held := s.Inject(Match{Op: OpRenew}, HoldReply(), Once())
		late := renewing(t, l) // arrives first
		s.LimitTTL(3 * time.Second)
		wantTTL(t, <-slow, 3*time.Second, 2*time.Second)
		wantLeft(t, s, 9*time.Second)
		time.Sleep(time.Second)
		held.Release()
		wantTTL(t, <-late, 10*time.Second, 2*time.Second)
		wantLeft(t, s, 8*time.Second)
		wantTTL(t, <-renewing(t, l), 3*time.Second, 0)
		wantLeft(t, s, 3*time.Second)
	})
}

// After an outage a lease has the life that its client knows.
func TestOutageKeepsTheShorterLife(t *testing.T) {
	for _, runOn := range []bool{false, true} {
		limited(t, Options{LeasesRunOn: runOn}, func(t *testing.T, s *Server, _ *Backend, l dcs.Lease) {
			wantTTL(t, <-renewing(t, l), 3*time.Second, 0)
			s.Down()
			time.Sleep(time.Second)
			s.Up()
			if runOn {
				wantLeft(t, s, 2*time.Second)
				return
			}
			wantLeft(t, s, 3*time.Second)
			time.Sleep(3*time.Second + time.Millisecond)
			if n := len(s.Leases()); n > 0 {
				t.Fatal("the lease did not end")
			}
		})
	}
}
