package elector

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/cluster"
	"github.com/holdfast-dcs/holdfast/memstore"
)

// table is that of the default timing.
func table(t *testing.T) Table {
	t.Helper()
	b, err := Timetable(Timing{})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A leader that is cut off demotes in time, and another one leads when the lock has
// run out (E2).
func TestFailover(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.pair()
		cut := w.server.Inject(memstore.Match{Client: "a"}, memstore.Hang())
		begin := time.Now()
		w.leads(b)
		b1 := table(t)
		between(t, "demotion", a.svc.demoted.Sub(begin), b1.Demote-b1.Renew, b1.Demote)
		between(t, "failover", b.svc.promoted.Sub(begin), b1.Others-b1.Renew, b1.Others+200*time.Millisecond)
		if a.svc.is() || a.svc.fences > 0 || a.svc.lastCause() != CauseExpiring {
			t.Errorf("a: primary %v, %d fences, %v", a.svc.is(), a.svc.fences, a.svc.lastCause())
		}
		cut.Lift()
		w.wait(time.Minute, "a follows", func() bool { return a.e.Status().State == Following && a.e.Status().Leader == "b" })
	})
}

// A store that is out for less than the time to demote does no harm; a longer outage
// ends with the same leader, which deletes its own old lock (E13).
func TestOutage(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.pair()
		w.server.Down()
		pass(10 * time.Second)
		w.server.Up()
		pass(time.Minute)
		if a.e.Leading() == nil || len(a.svc.demotes) > 0 {
			t.Error("a short outage ended the leadership")
		}
		w.server.Down()
		pass(time.Minute)
		if a.svc.is() {
			t.Error("primary after the deadline")
		}
		w.server.Up()
		up := time.Now()
		w.wait(time.Minute, "a leader", func() bool { return a.e.Leading() != nil || b.e.Leading() != nil })
		between(t, "leader", time.Since(up), 0, 10*time.Second)
	})
}

// E13: the own old incarnation is deleted and is no takeover. Without that its lease
// would have to run out.
func TestOwnOldLock(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.start("a")
		w.leads(a)
		w.server.Down()
		pass(time.Minute)
		w.server.Up() // every lease begins with its whole time
		up := time.Now()
		w.leads(a)
		between(t, "leader", time.Since(up), 0, 8*time.Second)
	})
}

// A lock that is deleted by an operator ends the leadership at the next renewal (E2).
func TestLockDeleted(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.start("a")
		w.leads(a)
		begin := time.Now()
		w.server.Delete("default", cluster.Key(scope, cluster.LeaderKey))
		w.wait(time.Minute, "a demotes", func() bool { _, n, _ := a.svc.calls(); return n > 0 })
		between(t, "demotion", a.svc.demoted.Sub(begin), 0, table(t).Renew)
		if a.svc.lastCause() != CauseLost || !errors.Is(a.svc.demotes[0].Err, dcs.ErrLost) {
			t.Errorf("reason %v", a.svc.demotes[0])
		}
		between(t, "fence time", a.svc.ends.Sub(a.svc.demoted), time.Second, time.Second) // E3
		w.leads(a)
	})
}

// A service that is found primary, or whose role is unclear, is demoted before
// anything else (E2).
func TestFoundPrimary(t *testing.T) {
	t.Run("at the start", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			w.server.Down() // also without a store
			a := w.open("a")
			a.svc.turn(true)
			a.start()
			pass(time.Second)
			if a.svc.is() || a.svc.lastCause() != CauseStart {
				t.Errorf("primary %v, %v", a.svc.is(), a.svc.demotes)
			}
		})
	})
	t.Run("unclear", func(t *testing.T) {
		for name, report := range map[string]func(*world) (cluster.Member, error){
			"error": func(*world) (cluster.Member, error) { return cluster.Member{}, errors.New("no") },
			"panic": func(*world) (cluster.Member, error) { panic("no") },
			"hangs": func(w *world) (cluster.Member, error) { return cluster.Member{}, w.hang() },
			"empty": func(*world) (cluster.Member, error) { return cluster.Member{}, nil },
		} {
			t.Run(name, func(t *testing.T) {
				inWorld(t, func(t *testing.T, w *world) {
					a := w.open("a")
					a.svc.turn(true)
					a.svc.do(func() { a.svc.onReport = func() (cluster.Member, error) { return report(w) } })
					a.start()
					pass(15 * time.Second)
					if a.svc.is() && a.svc.promotes == 0 || len(a.svc.demotes) != 1 {
						t.Errorf("primary %v, %v", a.svc.is(), a.svc.demotes)
					}
				})
			})
		}
	})
	t.Run("while following", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			_, b := w.pair()
			b.svc.do(func() {
				b.svc.onReport = func() (cluster.Member, error) { return cluster.Member{Role: cluster.RolePrimary}, nil }
			})
			pass(11 * time.Second)
			if b.svc.lastCause() != CauseStart {
				t.Errorf("%v", b.svc.demotes)
			}
		})
	})
}

// A leader whose service reports to be no primary gives the lock up.
func TestUnhealthy(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.pair()
		a.svc.do(func() {
			a.svc.onReport = func() (cluster.Member, error) {
				return cluster.Member{Role: cluster.RoleReplica, State: cluster.StateFailed}, nil
			}
		})
		w.leads(b)
		if a.svc.lastCause() != CauseUnhealthy {
			t.Errorf("%v", a.svc.demotes)
		}
	})
}

// E12: a shutdown in every state ends in time, with nothing left behind.
func TestShutdown(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, w *world) *member{
		"starting": func(_ *testing.T, w *world) *member { w.server.Down(); return w.start("a") },
		"following": func(t *testing.T, w *world) *member {
			w.put(t, cluster.LeaderKey, "x")
			return w.start("a")
		},
		"leading": func(_ *testing.T, w *world) *member { a := w.start("a"); w.leads(a); return a },
		"acquiring": func(_ *testing.T, w *world) *member {
			w.server.Inject(memstore.Match{Op: memstore.OpCommit, Key: cluster.Key(scope, cluster.LeaderKey)}, memstore.DelayReply(2*time.Second))
			return w.start("a")
		},
		"promoting": func(_ *testing.T, w *world) *member {
			a := w.open("a")
			a.svc.do(func() { a.svc.onPromote = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() } })
			return a.start()
		},
		"demoting": func(t *testing.T, w *world) *member {
			a := w.start("a")
			w.leads(a)
			a.svc.do(func() { a.svc.onDemote = func(context.Context, Reason) error { time.Sleep(time.Second); return nil } })
			if err := a.e.Pause(t.Context()); err != nil {
				t.Error(err)
			}
			w.server.Delete("default", cluster.Key(scope, cluster.LeaderKey))
			pass(10 * time.Second)
			return a
		},
		"fenced": func(_ *testing.T, w *world) *member {
			a := w.open("a", func(c *Config) { c.Timing.PromoteTimeout = time.Second })
			a.svc.do(func() { a.svc.onPromote = func(context.Context) error { return w.hang() } })
			a.start()
			pass(40 * time.Second)
			return a
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				a := prepare(t, w)
				pass(time.Second)
				state := a.e.Status().State
				begin := time.Now()
				a.stop()
				between(t, state.String()+": end", time.Since(begin), 0, 21*time.Second)
				if a.err != nil || a.svc.is() || a.e.Status().State != Stopped || a.e.Leading() != nil {
					t.Errorf("%v: %v, primary %v, %v", state, a.err, a.svc.is(), a.e.Status().State)
				}
				w.server.Up()
				if v := w.view(); v.Leader != nil && v.Leader.Name == "a" || len(v.Members) > 0 {
					t.Errorf("%v: left behind: %+v, %d members", state, v.Leader, len(v.Members))
				}
			})
		})
	}
}

// A store that is closed, and a second Run, are errors.
func TestRunErrors(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.start("a")
		w.leads(a)
		if err := a.e.Run(t.Context()); !errors.Is(err, dcs.ErrInvalid) {
			t.Error(err)
		}
		_ = a.store.Close()
		<-a.ended
		if !errors.Is(a.err, dcs.ErrClosed) || a.svc.is() {
			t.Error(a.err, a.svc.is())
		}
	})
}

// Of two processes of one name the one that came first goes on, and the other one
// never leads at the same time.
func TestTwoProcessesOfOneName(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.start("a")
		w.leads(a)
		twin := w.openAs("a2", "a").start()
		pass(time.Minute)
		if a.e.Leading() == nil || twin.svc.promotes > 0 {
			t.Error("the first process does not lead any more")
		}
		a.stop()
		w.leads(twin)
	})
	// Which of two processes comes first is a matter of chance.
	for range 10 {
		inWorld(t, func(t *testing.T, w *world) {
			w.put(t, cluster.LeaderKey, "x")
			a := w.start("a")
			pass(time.Second)
			twin := w.openAs("a2", "a").start() // takes the record over
			pass(time.Minute)
			late := w.server.Inject(memstore.Match{Client: "a2", Op: memstore.OpCommit, Key: cluster.Key(scope, cluster.LeaderKey)}, memstore.Hang())
			w.server.Delete("default", cluster.Key(scope, cluster.LeaderKey))
			pass(time.Second)
			if err := a.e.Status().Refusal; err == nil || !strings.Contains(err.Error(), "has published the record of this member: each process needs a name of its own") {
				t.Errorf("refusal %v", err)
			}
			late.Lift()
			w.leads(twin)
			if a.svc.promotes > 0 {
				t.Error("the process whose record was taken over leads")
			}
		})
	}
}
