package memstore

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
)

func acquire(value string) dcs.Txn {
	return dcs.Txn{If: []dcs.Cond{dcs.Absent("lock")}, Then: []dcs.Write{dcs.Put("lock", []byte(value))}}
}

// pair runs body with two clients of one server.
func pair(t *testing.T, o Options, body func(t *testing.T, s *Server, a, b *Backend)) {
	t.Helper()
	bubble.Test(t, func(t *testing.T) {
		s := NewServer(o)
		a, b := s.Open(ClientOptions{Name: "a"}), s.Open(ClientOptions{Name: "b"})
		defer a.Close()
		defer b.Close()
		body(t, s, a, b)
	})
}

func value(t *testing.T, b *Backend, key string) string {
	t.Helper()
	e, err := b.Get(budget(t), key)
	if errors.Is(err, dcs.ErrNotFound) {
		return "(absent)"
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(e.Value)
}

func TestDropReply(t *testing.T) {
	for name, faults := range map[string][]Fault{"silent": {DropReply()}, "reset": {DropReply(), Reset()}} {
		t.Run(name, func(t *testing.T) {
			pair(t, Options{}, func(t *testing.T, s *Server, a, _ *Backend) {
				i := s.Inject(Match{Op: OpCommit, Key: "lock"}, append(faults, Once())...)
				start := time.Now()
				mustCommit(t, a, acquire("a")) // the client recognises its own write
				if i.Hits() != 1 || s.Requests(Match{Op: OpCommit}) != 2 {
					t.Fatalf("%d hits, %d copies", i.Hits(), s.Requests(Match{Op: OpCommit}))
				}
				if fast := time.Since(start) < 100*time.Millisecond; fast != (name == "reset") {
					t.Fatalf("answered after %v", time.Since(start))
				}
			})
		})
	}
}

func TestHoldLandsLate(t *testing.T) {
	pair(t, Options{}, func(t *testing.T, s *Server, a, b *Backend) {
		i := s.Inject(Match{Op: OpCommit | OpSettle, Client: "a"}, Hold())
		_, err := a.Commit(budget(t), acquire("a"))
		wantKind(t, err, dcs.ErrAmbiguous)
		if i.Held() == 0 || value(t, b, "lock") != "(absent)" {
			t.Fatal("the request has arrived, or none is held")
		}
		i.Lift()
		i.Release()
		if v := value(t, b, "lock"); v != "a" {
			t.Fatalf("the lock is %q, want the late write", v)
		}
		var e *dcs.Error
		errors.As(err, &e)
		rev, err := a.Settle(budget(t), e)
		if l, _ := b.Get(budget(t), "lock"); err != nil || rev != l.Created {
			t.Fatalf("settled as %d, %v; want %d", rev, err, l.Created)
		}
	})
}

func TestHoldThenDrop(t *testing.T) {
	pair(t, Options{}, func(t *testing.T, s *Server, a, b *Backend) {
		i := s.Inject(Match{Op: OpCommit}, Hold(), Once())
		mustCommit(t, a, acquire("a")) // by the hedge
		i.Drop()
		i.Release()
		if i.Held() != 0 || value(t, b, "lock") != "a" {
			t.Fatal("applied although it was dropped")
		}
	})
}

func TestHoldReply(t *testing.T) {
	pair(t, Options{}, func(t *testing.T, s *Server, a, b *Backend) {
		i := s.Inject(Match{Op: OpSnapshot, Client: "a"}, HoldReply(), Once())
		old := make(chan dcs.Snapshot)
		go func() {
			snap, err := a.Snapshot(budget(t), "")
			if err != nil {
				t.Error(err)
			}
			old <- snap
		}()
		synctest.Wait()
		mustCommit(t, b, acquire("b"))
		newer, err := a.Snapshot(budget(t), "")
		if err != nil {
			t.Fatal(err)
		}
		i.Release()
		if snap := <-old; snap.Revision < newer.Revision || len(snap.Entries) != 1 {
			t.Fatalf("revision fell from %d to %d", newer.Revision, snap.Revision)
		}
	})
}

func TestLateRenewalIsTrue(t *testing.T) {
	pair(t, Options{}, func(t *testing.T, s *Server, a, b *Backend) {
		l, _, err := a.Grant(budget(t), 3*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		s.Inject(Match{Op: OpRenew}, DelayReply(1500*time.Millisecond), Once())
		sent := dcs.Now()
		r, err := l.Renew(budget(t))
		if err != nil || r.From.Sub(sent) > time.Millisecond || sent.Elapsed() < 1500*time.Millisecond {
			t.Fatalf("got %+v, %v", r, err)
		}
		mustCommit(t, a, dcs.Txn{Then: []dcs.Write{dcs.PutLeased("lock", []byte("a"), l.ID())}})
		time.Sleep(r.TTL - r.From.Elapsed() - time.Millisecond)
		if value(t, b, "lock") != "a" {
			t.Fatal("the lease ended before From + TTL")
		}
	})
}

func TestDuplicateAndRepeat(t *testing.T) {
	for name, f := range map[string]Fault{"duplicate": Duplicate(time.Second), "repeat": Repeat()} {
		t.Run(name, func(t *testing.T) {
			pair(t, Options{Duplicating: true}, func(t *testing.T, s *Server, a, b *Backend) {
				s.Inject(Match{Op: OpCommit}, f)
				rev := mustCommit(t, a, acquire("a"))
				e, err := b.Get(budget(t), "lock")
				if err != nil || e.Created != rev {
					t.Fatalf("got %+v, %v; want the token %d", e, err, rev)
				}
				s.Delete("default", "lock")
				time.Sleep(2 * time.Second)
				if v := value(t, b, "lock"); v != "(absent)" {
					t.Fatalf("applied twice: %q", v)
				}
			})
		})
	}
}

func TestReorderedByDelay(t *testing.T) {
	pair(t, Options{}, func(t *testing.T, s *Server, a, b *Backend) {
		s.Inject(Match{Op: OpCommit, Client: "a"}, Delay(500*time.Millisecond), Once())
		done := make(chan error)
		go func() {
			_, err := a.Commit(budget(t), acquire("a"))
			done <- err
		}()
		synctest.Wait()
		mustCommit(t, b, acquire("b"))
		wantKind(t, <-done, dcs.ErrConflict)
	})
}

func TestFailIsAmbiguous(t *testing.T) {
	pair(t, Options{}, func(t *testing.T, s *Server, a, _ *Backend) {
		cause := errors.New("request timed out")
		s.Inject(Match{}, Fail(cause))
		for op, err := range map[string]error{
			"Get":      second(a.Get(budget(t), "x")),
			"Snapshot": second(a.Snapshot(budget(t), "")),
		} {
			if !errors.Is(err, cause) {
				t.Errorf("%s: %v", op, err)
			}
			wantKind(t, err, dcs.ErrUnavailable)
		}
		_, _, err := a.Grant(budget(t), time.Minute)
		wantKind(t, err, dcs.ErrAmbiguous)
		_, err = a.Commit(budget(t), acquire("a"))
		wantKind(t, err, dcs.ErrUnavailable) // not even the marker could be created
	})
}

func second[T any](_ T, err error) error { return err }

func TestRefuse(t *testing.T) {
	pair(t, Options{}, func(t *testing.T, s *Server, a, _ *Backend) {
		start := time.Now()
		denied := s.Inject(Match{}, Refuse(&dcs.Error{Kind: dcs.ErrUnauthorized, Err: errors.New("permission denied")}))
		wantKind(t, second(a.Get(budget(t), "x")), dcs.ErrUnauthorized)
		wantKind(t, second(a.Commit(budget(t), acquire("a"))), dcs.ErrUnauthorized)
		_, _, err := a.Grant(budget(t), time.Minute)
		wantKind(t, err, dcs.ErrUnauthorized)
		wantKind(t, second(a.Wait(budget(t), "", 0)), dcs.ErrUnauthorized)
		denied.Lift()
		full := s.Inject(Match{Op: OpWrites}, Full())
		wantKind(t, second(a.Commit(budget(t), acquire("a"))), dcs.ErrUnavailable)
		_, _, err = a.Grant(budget(t), time.Minute)
		wantKind(t, err, dcs.ErrUnavailable)
		if time.Since(start) > time.Second {
			t.Fatalf("definite refusals took %v", time.Since(start))
		}
		full.Lift()
		mustCommit(t, a, acquire("a"))
	})
}

func TestDownAndUp(t *testing.T) {
	for name, o := range map[string]Options{"leases have their whole time again": {}, "leases run on": {LeasesRunOn: true}} {
		t.Run(name, func(t *testing.T) {
			pair(t, o, func(t *testing.T, s *Server, a, b *Backend) {
				l, _, err := a.Grant(budget(t), 3*time.Second)
				if err != nil {
					t.Fatal(err)
				}
				mustCommit(t, a, dcs.Txn{Then: []dcs.Write{dcs.PutLeased("lock", []byte("a"), l.ID())}})
				s.Down()
				start := time.Now()
				wantKind(t, second(b.Get(budget(t), "lock")), dcs.ErrUnavailable)
				if time.Since(start) != 10*time.Second {
					t.Fatalf("gave up after %v, not at the deadline", time.Since(start))
				}
				wantKind(t, second(b.Commit(budget(t), acquire("b"))), dcs.ErrUnavailable)
				s.Up()
				time.Sleep(2 * time.Second)
				if gone := value(t, b, "lock") == "(absent)"; gone != o.LeasesRunOn {
					t.Fatalf("gone: %v", gone)
				}
				time.Sleep(2 * time.Second)
				if value(t, b, "lock") != "(absent)" {
					t.Fatal("the lease did not end")
				}
			})
		})
	}
}

func TestReadOnly(t *testing.T) {
	pair(t, Options{}, func(t *testing.T, s *Server, a, _ *Backend) {
		l, _, err := a.Grant(budget(t), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		s.ReadOnly(true)
		wantKind(t, second(a.Commit(budget(t), acquire("a"))), dcs.ErrUnavailable)
		wantKind(t, second(l.Renew(budget(t))), dcs.ErrUnavailable)
		if value(t, a, "lock") != "(absent)" {
			t.Fatal("written")
		}
		s.ReadOnly(false)
		mustCommit(t, a, acquire("a"))
	})
}

func TestEndpointsAreLeft(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := NewServer(Options{})
		var switched []dcs.EndpointEvent
		a := s.Open(ClientOptions{Observer: dcs.Observer{Endpoint: func(e dcs.EndpointEvent) { switched = append(switched, e) }}})
		defer a.Close()
		mustCommit(t, a, put("x", "1"))
		s.Inject(Match{Endpoint: "m1"}, Hang())
		mustCommit(t, a, put("x", "2"))
		start := time.Now()
		for range 20 {
			mustCommit(t, a, put("x", "3"))
			if value(t, a, "x") != "3" {
				t.Fatal("not written")
			}
		}
		synctest.Wait() // the event is delivered
		if time.Since(start) > 0 || len(switched) != 1 || switched[0].From != "m1" || switched[0].To != "m2" {
			t.Fatalf("after %v: %+v", time.Since(start), switched)
		}
	})
}

func TestFrozenWatch(t *testing.T) {
	wait := func(b *Backend, since dcs.Revision) (dcs.Snapshot, time.Duration, error) {
		start := time.Now()
		snap, err := b.Wait(context.Background(), "", since)
		return snap, time.Since(start), err
	}
	t.Run("everywhere", func(t *testing.T) {
		pair(t, Options{}, func(t *testing.T, s *Server, a, b *Backend) {
			since := mustCommit(t, a, put("x", "1"))
			f := s.FreezeWatch(Match{Client: "b"})
			time.AfterFunc(time.Second, func() { mustCommit(t, a, put("x", "2")) })
			_, took, err := wait(b, since)
			wantKind(t, err, dcs.ErrUnavailable)
			if took < 10*time.Second || took > 10100*time.Millisecond {
				t.Fatalf("silent for %v, RetryTimeout is 10s", took)
			}
			f.Lift()
			if snap, _, err := wait(b, since); err != nil || string(snap.Entries[0].Value) != "2" {
				t.Fatalf("got %+v, %v", snap, err)
			}
		})
	})
	for name, op := range map[string]Op{"one endpoint is silent": OpWatch, "one endpoint lags": OpWait} {
		t.Run(name, func(t *testing.T) {
			pair(t, Options{}, func(t *testing.T, s *Server, a, b *Backend) {
				since := mustCommit(t, a, put("x", "1"))
				time.AfterFunc(time.Second, func() { s.Inject(Match{Client: "b", Op: op, Endpoint: "m1"}, Hang()) })
				time.AfterFunc(2*time.Second, func() { mustCommit(t, a, put("x", "2")) })
				snap, took, err := wait(b, since)
				if err != nil || len(snap.Entries) != 1 || took > 12*time.Second {
					t.Fatalf("after %v: %+v, %v", took, snap, err)
				}
				if op == OpWait && took > 6*time.Second {
					t.Fatalf("the client left a lagging endpoint only after %v", took-2*time.Second)
				}
			})
		})
	}
	t.Run("a quiet store is not silent", func(t *testing.T) {
		pair(t, Options{}, func(t *testing.T, _ *Server, a, b *Backend) {
			since := mustCommit(t, a, put("x", "1"))
			ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
			defer cancel()
			if _, err := b.Wait(ctx, "", since); err != context.DeadlineExceeded {
				t.Fatalf("got %v", err)
			}
		})
	})
}

func TestBehindTheBack(t *testing.T) {
	pair(t, Options{}, func(t *testing.T, s *Server, a, _ *Backend) {
		l, r, err := a.Grant(budget(t), 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		mustCommit(t, a, dcs.Txn{Then: []dcs.Write{dcs.PutLeased("lock", nil, l.ID()), dcs.Put("config", nil)}})
		info := s.Leases()
		if len(info) != 1 || info[0].ID != l.ID() || info[0].TTL != r.TTL || len(info[0].Keys) != 1 || info[0].Keys[0] != "lock" {
			t.Fatalf("got %+v", info)
		}
		if n := len(s.Entries("default")); n != 3 { // with the marker
			t.Fatalf("%d entries", n)
		}
		if !s.EndLease(l.ID()) || s.EndLease(l.ID()) || value(t, a, "lock") != "(absent)" {
			t.Fatal("the lease did not end, or twice")
		}
		wantKind(t, second(l.Renew(budget(t))), dcs.ErrLost)
		if !s.Delete("default", "config") || s.Delete("default", "config") {
			t.Fatal("not deleted, or twice")
		}
		if err := s.Put("default", "config", []byte("theirs")); err != nil || value(t, a, "config") != "theirs" {
			t.Fatalf("not written: %v", err)
		}
		if err := l.Revoke(budget(t)); err != nil {
			t.Fatalf("revoking a lease that is gone: %v", err)
		}
	})
}

func TestLossyNetwork(t *testing.T) {
	pair(t, Options{Duplicating: true, Latency: time.Millisecond}, func(t *testing.T, s *Server, a, b *Backend) {
		i := s.Inject(Match{}, Lossy(Loss{Seed: 7, Request: 0.1, Reply: 0.1, Duplicate: 0.1, Delay: 0.2, MaxDelay: 300 * time.Millisecond}))
		const each = 30
		done := make(chan int)
		for _, c := range []*Backend{a, b} {
			go func() {
				n := 0
				for n < each {
					e, err := c.Get(budget(t), "counter")
					if err != nil && !errors.Is(err, dcs.ErrNotFound) {
						continue
					}
					_, err = c.Commit(budget(t), dcs.Txn{
						If:   []dcs.Cond{dcs.ModifiedAt("counter", e.Modified)},
						Then: []dcs.Write{dcs.Put("counter", append(e.Value, '+'))},
					})
					if err == nil {
						n++
					} else if !errors.Is(err, dcs.ErrConflict) {
						t.Errorf("with seconds to try again: %v", err)
						break
					}
				}
				done <- n
			}()
		}
		if n := <-done + <-done; n != 2*each {
			t.Fatalf("counted %d", n)
		}
		i.Lift()
		if v := value(t, a, "counter"); len(v) != 2*each {
			t.Fatalf("%d acknowledged, %d there", 2*each, len(v))
		}
	})
}
