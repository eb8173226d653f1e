package elector

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/cluster"
	"github.com/holdfast-dcs/holdfast/memstore"
)

// kept starts a leader and a replica, and pauses the cluster until the leader is the
// keeper.
func (w *world) kept(change ...func(*Config)) (a, b *member) {
	w.t.Helper()
	a, b = w.pair(change...)
	w.pause(a)
	w.wait(time.Minute, "a is the keeper", func() bool { return a.e.Status().Kept })
	return a, b
}

func (w *world) pause(m *member) {
	w.t.Helper()
	if err := m.e.Pause(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) resume(m *member) {
	w.t.Helper()
	if err := m.e.Resume(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// restart starts another process of the member m, whose service goes on.
func (w *world) restart(m *member, client string) *member {
	w.t.Helper()
	n := w.openAs(client, m.e.c.Name, func(c *Config) { c.Service, c.NoKeeper = m.svc, m.e.c.NoKeeper })
	n.svc = m.svc
	return n.start()
}

// Keeper: in a pause the leader outlives its lock in an outage, no other member takes
// it, and the leader takes it again without a demotion. After the pause the record is
// gone, and the leader ends with its lock again.
func TestKeeperOutage(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.kept()
		token, k := a.e.Leading().Token(), w.view().Keeper
		if k == nil || k.Name != "a" || k.Instance != a.e.instance || k.Token != token {
			t.Fatalf("%+v", k)
		}
		w.server.Down()
		pass(10 * time.Minute)
		if !a.svc.is() || b.svc.is() || a.e.Leading() != nil || !a.e.Status().Kept {
			t.Errorf("a %v, b %v, leading %v", a.svc.is(), b.svc.is(), a.e.Leading())
		}
		w.server.Up()
		w.leads(a)
		w.wait(time.Minute, "the record has the new token", func() bool { return w.view().Keeper.Token > token })
		if now := a.e.Leading().Token(); now <= token || w.view().Keeper.Token != now {
			t.Errorf("token %v after %v, keeper %+v", now, token, w.view().Keeper)
		}
		w.resume(b)
		w.wait(time.Minute, "the record is gone", func() bool { return w.view().Keeper == nil })
		if promotes, demotes, fences := a.svc.calls(); promotes != 1 || demotes+fences > 0 || a.e.Status().Kept {
			t.Errorf("%d promotions, %v, %d fences", promotes, a.svc.demotes, fences)
		}
		w.server.Inject(memstore.Match{Client: "a"}, memstore.Hang())
		w.leads(b)
		if a.svc.is() || a.svc.fences > 0 {
			t.Error("a outlives its lock without a pause")
		}
	})
}

// Keeper: a leader that has no confirmed record ends with its lock.
func TestKeeperUnconfirmed(t *testing.T) {
	for _, name := range []string{"no answer", "not wanted"} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				a, b := w.pair(func(c *Config) { c.NoKeeper = name == "not wanted" })
				w.server.Inject(memstore.Match{Client: "a", Op: memstore.OpCommit, Key: cluster.Key(scope, cluster.KeeperKey)}, memstore.Hang())
				w.pause(b)
				pass(5 * time.Second)
				w.server.Down()
				pass(time.Minute)
				if a.svc.is() || a.svc.lastCause() != CauseExpiring || a.svc.fences > 0 {
					t.Errorf("primary %v, %v", a.svc.is(), a.svc.demotes)
				}
				w.server.Up()
				a.stop() // an unclear write is not left behind
				if k := w.view().Keeper; k != nil {
					t.Errorf("left behind: %+v", k)
				}
			})
		})
	}
}

// E12, keeper: a manager that ends in a pause leaves the service running and gives the
// lock back. Nobody takes it, and the next process goes on with the service, calls
// Promote under its own lock, and owns the record.
func TestKeeperRestart(t *testing.T) {
	for name, end := range map[string]func(w *world, a *member){
		"shutdown": func(_ *world, a *member) { a.stop() },
		"crash": func(w *world, a *member) { // the lock stays until its lease ends
			w.server.Inject(memstore.Match{Client: "a"}, memstore.Hang())
			a.stop()
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				a, b := w.kept()
				end(w, a)
				if a.err != nil && name == "shutdown" || !a.svc.is() || w.view().Leader != nil && name == "shutdown" {
					t.Errorf("%v, primary %v, leader %+v", a.err, a.svc.is(), w.view().Leader)
				}
				if name == "shutdown" {
					pass(5 * time.Minute)
				}
				next := w.restart(a, "a2")
				w.leads(next)
				w.wait(time.Minute, "the record is rewritten", func() bool { return w.view().Keeper.Instance == next.e.instance })
				w.resume(next)
				w.wait(time.Minute, "the record is gone", func() bool { return w.view().Keeper == nil })
				pass(time.Minute)
				if promotes, demotes, fences := a.svc.calls(); promotes != 2 || demotes+fences > 0 || b.svc.promotes > 0 || next.e.Leading() == nil {
					t.Errorf("%d promotions, %v, %d fences, b %d", promotes, a.svc.demotes, fences, b.svc.promotes)
				}
			})
		})
	}
}

// A service that is found primary is left running only if a keeper was read that names
// it: not while the store is away, and not where another member has the lock.
func TestKeeperUnproven(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, w *world){
		"store away":           func(_ *testing.T, w *world) { w.server.Down() },
		"another has the lock": func(t *testing.T, w *world) { w.put(t, cluster.LeaderKey, "x") },
		"record without an instance": func(t *testing.T, w *world) {
			w.put(t, cluster.KeeperKey, `{"name":"a","token":3}`)
		},
		"unreadable record": func(t *testing.T, w *world) { w.put(t, cluster.KeeperKey, `{"name":"a"`) },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				a, _ := w.kept()
				a.stop()
				prepare(t, w)
				w.restart(a, "a2")
				pass(2 * time.Second)
				if a.svc.is() || a.svc.lastCause() != CauseStart {
					t.Errorf("primary %v, %v", a.svc.is(), a.svc.demotes)
				}
			})
		})
	}
}

// Keeper: nobody but its owner removes the record, and while it is there nobody
// acquires, also after the pause. An operator can remove it.
func TestKeeperOwner(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.kept()
		w.server.Inject(memstore.Match{Client: "a"}, memstore.Hang())
		pass(time.Minute)
		twin := w.openAs("a2", "a").start() // another process of that name, whose service is a replica
		w.resume(b)
		pass(10 * time.Minute)
		if !a.svc.is() || b.svc.promotes+twin.svc.promotes > 0 || w.view().Keeper == nil {
			t.Errorf("a %v, b %d, twin %d, keeper %+v", a.svc.is(), b.svc.promotes, twin.svc.promotes, w.view().Keeper)
		}
		for _, m := range []*member{b, twin} {
			if err := m.e.Status().Refusal; err == nil || !strings.Contains(err.Error(), `key "keeper" names member "a"`) {
				t.Errorf("%v", err)
			}
		}
		for _, name := range []string{"", "b"} {
			if err := b.e.RemoveKeeper(t.Context(), name); !errors.Is(err, ErrRefused) || w.view().Keeper == nil {
				t.Errorf("%q: %v", name, err)
			}
		}
		a.exit(Reason{}) // its machine is switched off
		if err := b.e.RemoveKeeper(t.Context(), "a"); err != nil {
			t.Error(err)
		}
		w.wait(time.Minute, "a leader", func() bool { return b.e.Leading() != nil || twin.e.Leading() != nil })
		if err := b.e.RemoveKeeper(t.Context(), "a"); err != nil { // there is none
			t.Error(err)
		}
	})
}

// A member that has the lock removes its record itself.
func TestRemoveKeeperOfALeader(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.kept()
		if err := b.e.RemoveKeeper(t.Context(), "a"); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "has the lock") {
			t.Error(err)
		}
		w.server.Down()
		if err := b.e.RemoveKeeper(t.Context(), "a"); !errors.Is(err, dcs.ErrUnavailable) {
			t.Error(err)
		}
		w.server.Up()
		if !a.e.Status().Kept {
			t.Error("a is no keeper any more")
		}
	})
}

// A record that an operator removes, and a lock that another member has, end a
// leadership that has outlived its lock (E2). So does a lock that is deleted.
func TestKeeperEnds(t *testing.T) {
	for name, test := range map[string]struct {
		held bool // the lock is valid when it happens
		do   func(t *testing.T, w *world, b *member)
	}{
		"removed by force": {false, func(t *testing.T, _ *world, b *member) {
			if err := b.e.RemoveKeeper(t.Context(), "a"); err != nil {
				t.Error(err)
			}
		}},
		"taken over": {false, func(t *testing.T, w *world, _ *member) { w.put(t, cluster.LeaderKey, "x") }},
		"lock deleted": {true, func(_ *testing.T, w *world, _ *member) {
			w.server.Delete("default", cluster.Key(scope, cluster.LeaderKey))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				a, b := w.kept()
				var cut *memstore.Injection
				if !test.held {
					cut = w.server.Inject(memstore.Match{Client: "a"}, memstore.Hang())
					pass(time.Minute)
				}
				if !a.svc.is() {
					t.Fatal("not primary")
				}
				test.do(t, w, b)
				if cut != nil {
					cut.Lift()
				}
				pass(20 * time.Second)
				if a.svc.is() || a.svc.lastCause() != CauseLost || a.svc.fences > 0 {
					t.Errorf("primary %v, %v", a.svc.is(), a.svc.demotes)
				}
				if k := w.view().Keeper; k != nil {
					t.Errorf("the owner has demoted, and its record is there: %+v", k)
				}
			})
		})
	}
}

// A pause that ends while the keeper is cut off changes nothing for the others, until
// the keeper has the lock again and removes its record.
func TestKeeperResumedMeanwhile(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.kept()
		cut := w.server.Inject(memstore.Match{Client: "a"}, memstore.Hang())
		pass(time.Minute)
		w.resume(b)
		pass(5 * time.Minute)
		if b.svc.promotes > 0 || !a.svc.is() {
			t.Errorf("a %v, b %d", a.svc.is(), b.svc.promotes)
		}
		cut.Lift()
		w.leads(a)
		w.wait(time.Minute, "the record is gone", func() bool { return w.view().Keeper == nil })
		if len(a.svc.demotes) > 0 {
			t.Errorf("%v", a.svc.demotes)
		}
	})
}

// A removal whose answer is lost confirms nothing: the leader ends with its lock, until
// another record is confirmed.
func TestKeeperRemovalUnclear(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.kept()
		held := w.server.Inject(memstore.Match{Client: "a", Op: memstore.OpCommit, Key: cluster.Key(scope, cluster.KeeperKey)}, memstore.Hold())
		w.resume(b)
		w.wait(time.Minute, "the removal is held", func() bool { return held.Held() > 0 })
		w.pause(b)
		pass(time.Second)
		if a.e.Status().Kept {
			t.Error("kept by a record that is being removed")
		}
		held.Release()
		held.Lift()
		w.wait(2*time.Minute, "a is the keeper again", func() bool { return a.e.Status().Kept })
	})
}

// A function of Lead has no keeper: it ends with its process.
func TestLeadHasNoKeeper(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		ctx, cancel := context.WithCancel(t.Context())
		running := make(chan struct{})
		answer := lead(t, w.server, "a", ctx, nil, func(ctx context.Context, _ *Leadership) error {
			close(running)
			<-ctx.Done()
			return ctx.Err()
		})
		<-running
		w.put(t, cluster.ConfigKey, `{"pause":true}`)
		pass(time.Minute)
		if w.view().Keeper != nil {
			t.Errorf("%+v", w.view().Keeper)
		}
		cancel()
		if err := <-answer; err != nil {
			t.Error(err)
		}
	})
}

// Once the record that a process has adopted is replaced or gone, another one of that
// instance is none of its own: the earlier process is alive and leads again.
func TestAdoptedKeeperIsOver(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.kept()
		earlier := a.e.instance
		a.stop()
		next := w.restart(a, "a2")
		w.leads(next)
		w.wait(time.Minute, "the record is rewritten", func() bool { return w.view().Keeper.Instance == next.e.instance })
		w.resume(next)
		w.wait(time.Minute, "the record is gone", func() bool { return w.view().Keeper == nil })
		if err := next.e.Switchover(t.Context(), Request{Candidate: "b"}); err != nil {
			t.Fatal(err)
		}
		w.put(t, cluster.KeeperKey, fmt.Sprintf(`{"name":"a","instance":%q,"token":%d}`, earlier, w.view().Leader.Token))
		pass(time.Minute)
		if w.view().Keeper == nil || b.e.Leading() == nil {
			t.Errorf("keeper %+v, b leads %v", w.view().Keeper, b.e.Leading())
		}
	})
}
