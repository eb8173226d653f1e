package memstore

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// The revision in an answer is a promise. A Snapshot with an older one that is answered
// later is requested again.
func TestSnapshotIsNotOlderThanAnyAnswer(t *testing.T) {
	for name, call := range map[string]func(t *testing.T, s *Server, a *Backend, l dcs.Lease) error{
		"Get": func(t *testing.T, _ *Server, a *Backend, _ dcs.Lease) error {
			_, err := a.Get(budget(t), "x")
			return err
		},
		"Commit": func(t *testing.T, _ *Server, a *Backend, _ dcs.Lease) error {
			_, err := a.Commit(budget(t), put("x", "2"))
			return err
		},
		"Settle": func(t *testing.T, s *Server, a *Backend, _ dcs.Lease) error {
			lost := s.Inject(Match{Op: OpCommit | OpSettle, Client: "patient"}, DropReply())
			_, err := a.Commit(budget(t), put("x", "2"))
			lost.Lift()
			var e *dcs.Error
			if !errors.As(err, &e) || e.Kind != dcs.ErrAmbiguous {
				t.Fatalf("got %v, want an ambiguous Commit", err)
			}
			_, err = a.Settle(budget(t), e)
			return err
		},
		"Renew": func(t *testing.T, _ *Server, _ *Backend, l dcs.Lease) error {
			_, err := l.Renew(budget(t), "x")
			return err
		},
		"Wait": func(t *testing.T, _ *Server, a *Backend, _ dcs.Lease) error {
			_, err := a.Wait(budget(t), "", 0)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			pair(t, Options{}, func(t *testing.T, s *Server, _, b *Backend) {
				a := s.Open(ClientOptions{Name: "patient", AttemptTimeout: time.Hour})
				defer a.Close()
				l, _, err := a.Grant(budget(t), time.Hour)
				if err != nil {
					t.Fatal(err)
				}
				held := s.Inject(Match{Op: OpSnapshot, Client: "patient"}, HoldReply(), Once())
				old := make(chan dcs.Snapshot)
				go func() {
					snap, err := a.Snapshot(t.Context(), "")
					if err != nil {
						t.Error(err)
					}
					old <- snap
				}()
				synctest.Wait()
				mustCommit(t, b, put("x", "1"))
				if err := call(t, s, a, l); err != nil {
					t.Fatal(err)
				}
				held.Release()
				if snap := <-old; len(snap.Entries) != 1 {
					t.Errorf("a Snapshot of revision %d, older than an earlier answer to the client", snap.Revision)
				}
			})
		})
	}
}

func TestClosedClientAsksNothing(t *testing.T) {
	pair(t, Options{}, func(t *testing.T, s *Server, a, _ *Backend) {
		mustCommit(t, a, put("x", "1"))
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		asked := s.Requests(Match{Client: "a"})
		_, err := a.Get(budget(t), "x")
		wantKind(t, err, dcs.ErrClosed)
		if n := s.Requests(Match{Client: "a"}); n != asked {
			t.Errorf("%d requests of a closed client", n-asked)
		}
	})
}

// A Wait ends because of silence when RetryTimeout has passed since the last answer, and
// not since its start.
func TestWaitCountsSilenceFromTheLastAnswer(t *testing.T) {
	pair(t, Options{}, func(t *testing.T, s *Server, a, b *Backend) {
		since := mustCommit(t, b, put("x", "1"))
		ended := make(chan error, 1)
		frozen := s.FreezeWatch(Match{Client: "a"})
		go func() {
			_, err := a.Wait(t.Context(), "", since)
			ended <- err
		}()
		time.Sleep(7 * time.Second)
		frozen.Lift()
		time.Sleep(2 * time.Second) // the server answers that nothing has changed
		frozen = s.FreezeWatch(Match{Client: "a"})
		time.Sleep(5 * time.Second)
		frozen.Lift()
		mustCommit(t, b, put("x", "2"))
		if err := <-ended; err != nil {
			t.Fatalf("got %v, want the change: RetryTimeout is 10 s, and the last answer came 7.5 s ago", err)
		}
	})
}
