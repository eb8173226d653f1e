package elector

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/cluster"
	"github.com/holdfast-dcs/holdfast/memstore"
)

// E15: the answer is given when the candidate leads; the request is gone then.
func TestSwitchover(t *testing.T) {
	for _, candidate := range []string{"b", ""} {
		inWorld(t, func(t *testing.T, w *world) {
			a, b := w.pair()
			c := w.start("c", func(c *Config) { c.Member.Tags = map[string]json.RawMessage{"nofailover": json.RawMessage("true")} })
			w.wait(time.Minute, "c is published", func() bool { return w.published("c") })
			b.svc.do(func() {
				b.svc.onPromote = func(context.Context) error { time.Sleep(3 * time.Second); return nil }
			})
			begin := time.Now()
			if err := a.e.Switchover(t.Context(), Request{Candidate: candidate}); err != nil {
				t.Fatal(err)
			}
			between(t, "answer", time.Since(begin), 3*time.Second, 4*time.Second)
			if a.svc.is() || !b.svc.is() || a.svc.lastCause() != CauseSwitchover || c.svc.is() {
				t.Errorf("a %v, b %v, %v", a.svc.is(), b.svc.is(), a.svc.lastCause())
			}
			w.wait(time.Minute, "the request is cleared", func() bool { return w.view().Failover == nil })
			if err := b.e.Switchover(t.Context(), Request{Candidate: "a"}); err != nil {
				t.Error(err)
			}
		})
	}
}

// E15: a candidate that does not take the lock within a LoopWait is given up, and
// the answer names the leader.
func TestSwitchoverFails(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.pair()
		w.server.Inject(memstore.Match{Client: "b"}, memstore.Hang()) // its record is still there
		begin := time.Now()
		err := a.e.Switchover(t.Context(), Request{Candidate: "b"})
		if err == nil || errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), `member "a" has taken the lock`) {
			t.Errorf("%v", err)
		}
		between(t, "answer", time.Since(begin), 10*time.Second, 12*time.Second)
		w.leads(a)
		if b.svc.is() {
			t.Error("b is primary")
		}
	})
}

// asker answers with the identity of the members' electors, or with fakes.
type asker struct {
	w *world
	f func(name string, id cluster.Identity) (cluster.Identity, error)
}

func (a asker) Ask(ctx context.Context, apiURL string) (cluster.Identity, error) {
	name := strings.TrimSuffix(strings.TrimPrefix(apiURL, "http://"), "/")
	m := a.w.members[name]
	if m == nil {
		<-ctx.Done()
		return cluster.Identity{}, ctx.Err()
	}
	id := m.e.Identity()
	id.Position = func() int64 { m.svc.mu.Lock(); defer m.svc.mu.Unlock(); return m.svc.position }()
	if a.f != nil {
		return a.f(name, id)
	}
	return id, nil
}

// asked configures a member with an Asker.
func asked(w *world, f func(string, cluster.Identity) (cluster.Identity, error)) func(*Config) {
	return func(c *Config) {
		c.Asker = asker{w, f}
		c.Member.APIURL = "http://" + c.Name + "/"
	}
}

// E15: each refusal has its reason, and nothing changes.
func TestSwitchoverRefused(t *testing.T) {
	type test struct {
		prepare func(t *testing.T, w *world, a, b *member)
		ask     func(string, cluster.Identity) (cluster.Identity, error)
		of      string // b where it is not the leader
		request Request
		want    string
	}
	to := Request{Candidate: "b"}
	for name, test := range map[string]test{
		"not the leader":    {of: "b", request: Request{Candidate: "a"}, want: `member "b" does not lead: ask "a"`},
		"in the past":       {request: Request{Candidate: "b", At: epoch.Add(-time.Second)}, want: "in the past"},
		"unknown candidate": {request: Request{Candidate: "x"}, want: `member "x" is unknown`},
		"the leader itself": {request: Request{Candidate: "a"}, want: `member "a" leads already`},
		"no candidate": {
			request: Request{}, want: "no member can take over",
			ask: func(name string, id cluster.Identity) (cluster.Identity, error) {
				if name == "b" {
					return id, errors.New("refused")
				}
				return id, nil
			},
		},
		"unhealthy": {
			request: to, want: `in the state "failed"`,
			ask: func(name string, id cluster.Identity) (cluster.Identity, error) {
				if name == "b" {
					id.State = cluster.StateFailed
				}
				return id, nil
			},
		},
		"unverified": {
			request: to, want: "wrong member",
			ask: func(name string, id cluster.Identity) (cluster.Identity, error) {
				if name == "b" {
					id.Instance = "other"
				}
				return id, nil
			},
		},
		"behind": {
			request: to, want: "its position is 0 (stored 0), that of the leader 2097152, at most 1048576 is allowed",
			prepare: func(_ *testing.T, _ *world, a, _ *member) {
				a.svc.do(func() { a.svc.position = 2 << 20 })
				pass(11 * time.Second)
			},
		},
		"nofailover": {
			request: Request{Candidate: "c"}, want: "tagged nofailover",
			prepare: func(_ *testing.T, w *world, _, _ *member) {
				w.start("c", asked(w, nil), func(c *Config) { c.Member.Tags = map[string]json.RawMessage{"nofailover": json.RawMessage("true")} })
				pass(time.Second)
			},
		},
		"paused": {
			request: to, want: "paused",
			prepare: func(t *testing.T, _ *world, a, _ *member) {
				if err := a.e.Pause(t.Context()); err != nil {
					t.Fatal(err)
				}
			},
		},
		"store out": {request: to, want: "unavailable", prepare: func(_ *testing.T, w *world, _, _ *member) { w.server.Down() }},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				ask := func(name string, id cluster.Identity) (cluster.Identity, error) { return id, nil }
				if test.ask != nil {
					ask = test.ask
				}
				leading := false
				a, b := w.pair(asked(w, func(name string, id cluster.Identity) (cluster.Identity, error) {
					if !leading { // a must be able to lead first
						return id, nil
					}
					return ask(name, id)
				}))
				leading = true
				if test.prepare != nil {
					test.prepare(t, w, a, b)
				}
				of := a
				if test.of == "b" {
					of = b
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				err := of.e.Switchover(ctx, test.request)
				if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), test.want) {
					t.Errorf("got %v, want %q", err, test.want)
				}
				pass(time.Second)
				if w.server.Up(); a.e.Leading() == nil || len(a.svc.demotes) > 0 || w.view().Failover != nil {
					t.Errorf("something has changed: %+v", w.view().Failover)
				}
			})
		})
	}
}

// E15: a request that is scheduled is stored, and carried out at its time.
func TestScheduledSwitchover(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.pair()
		at := time.Now().Add(time.Hour)
		if err := a.e.Switchover(t.Context(), Request{Candidate: "b", At: at}); err != nil {
			t.Fatal(err)
		}
		pass(59 * time.Minute)
		if a.e.Leading() == nil || w.view().Failover == nil || w.view().Failover.Token != 0 {
			t.Fatal("not waiting for its time")
		}
		w.leads(b)
		between(t, "leader", b.svc.promoted.Sub(at), 0, time.Second)
	})
}

// E15: requests that an operator has written into the tree.
func TestRequestInTheTree(t *testing.T) {
	for name, test := range map[string]struct {
		value   string
		carried bool
	}{
		"to the leader":      {`{"leader":"a","member":"b"}`, true},
		"to any leader":      {`{"member":"b"}`, true},
		"without candidate":  {`{"leader":"a"}`, true},
		"to another leader":  {`{"leader":"x","member":"b"}`, false},
		"accepted by others": {`{"leader":"a","member":"b","token":1}`, false},
		"unknown candidate":  {`{"leader":"a","member":"x"}`, false},
		"long past":          {`{"leader":"a","member":"b","scheduled_at":"1999-12-31T00:00:00Z"}`, false},
		"unreadable time":    {`{"leader":"a","member":"b","scheduled_at":"soon"}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				a, b := w.pair()
				w.put(t, cluster.FailoverKey, test.value)
				pass(5 * time.Second)
				if b.svc.is() != test.carried || a.svc.is() == test.carried || w.view().Failover != nil {
					t.Errorf("a %v, b %v, %+v", a.svc.is(), b.svc.is(), w.view().Failover)
				}
			})
		})
	}
}

// A request that is judged while the leadership ends is left to the next leader.
func TestRequestJudgedTooLate(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var judging atomic.Bool
		slow := func(_ string, id cluster.Identity) (cluster.Identity, error) {
			if judging.Load() {
				time.Sleep(time.Second)
			}
			return id, nil
		}
		a, _ := w.pair(asked(w, slow))
		judging.Store(true)
		w.put(t, cluster.FailoverKey, `{"leader":"a","member":"x"}`)
		pass(100 * time.Millisecond)
		a.stop()
		if a.err != nil || w.view().Failover == nil {
			t.Errorf("%v, %+v", a.err, w.view().Failover)
		}
	})
}

// E15: an acceptance whose answer is lost takes place.
func TestSwitchoverAcceptanceLost(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.pair()
		lost := w.server.Inject(memstore.Match{Op: memstore.OpCommit | memstore.OpSettle | memstore.OpRead, Client: "a", Key: cluster.Key(scope, cluster.FailoverKey)}, memstore.DropReply())
		err := a.e.Switchover(t.Context(), Request{Candidate: "b"})
		lost.Lift()
		if errors.Is(err, ErrRefused) {
			t.Errorf("%v", err)
		}
		w.leads(b)
	})
}

// E11: in a pause nobody acquires, and a leader is demoted for no policy reason. A
// lost lock still ends in a demotion.
func TestPause(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.pair()
		if err := b.e.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		paused := func(want bool) {
			t.Helper()
			for _, m := range w.view().Members { // patronictl pause --wait looks there
				if m.Pause != want {
					t.Errorf("member %s: pause %v, want %v", m.Name, m.Pause, want)
				}
			}
		}
		paused(true)
		a.svc.do(func() {
			a.svc.onReport = func() (cluster.Member, error) { return cluster.Member{Role: cluster.RoleReplica}, nil }
		})
		pass(time.Minute)
		if a.e.Leading() == nil || !a.e.Status().Paused {
			t.Error("demoted in a pause")
		}
		a.svc.do(func() { a.svc.onReport = nil })
		w.server.Delete("default", cluster.Key(scope, cluster.LeaderKey))
		pass(time.Minute)
		if a.svc.is() || b.svc.is() || a.svc.lastCause() != CauseLost {
			t.Errorf("a %v, b %v", a.svc.is(), b.svc.is())
		}
		if err := b.e.Status().Refusal; err == nil || !strings.Contains(err.Error(), "paused") {
			t.Errorf("refusal %v", err)
		}
		if err := a.e.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		paused(false)
		w.wait(time.Minute, "a leader", func() bool { return a.e.Leading() != nil || b.e.Leading() != nil })
	})
}

// A leader writes a configuration where there is none, and leaves one alone that is
// stored.
func TestConfigurationIsWritten(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		m := memstore.Match{Client: "a", Op: memstore.OpCommit, Key: cluster.Key(scope, cluster.ConfigKey)}
		w.leads(w.start("a"))
		pass(time.Second)
		failing := w.server.Inject(m, memstore.Refuse(&dcs.Error{Kind: dcs.ErrUnauthorized, Err: errors.New("read only")}))
		w.server.Delete("default", m.Key)
		pass(time.Minute)
		if n := failing.Hits(); n < 2 || n > 7 {
			t.Errorf("%d attempts in 6 LoopWaits", n)
		}
		failing.Lift()
		pass(11 * time.Second)
		want := cluster.Config{TTL: 30 * time.Second, LoopWait: 10 * time.Second, RetryTimeout: 10 * time.Second}
		if got := w.view().Config; !reflect.DeepEqual(got, want) {
			t.Errorf("%+v", got)
		}
		w.put(t, cluster.ConfigKey, `{}`)
		pass(time.Minute)
		if got := w.view().Config; !reflect.DeepEqual(got, cluster.Config{}) {
			t.Errorf("%+v", got)
		}
	})
}

// E11: a switchover that was accepted is not stopped halfway by a pause.
func TestPauseWhileSwitchingOver(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.pair()
		a.svc.do(func() {
			a.svc.onDemote = func(context.Context, Reason) error { time.Sleep(2 * time.Second); return nil }
		})
		answer := make(chan error, 1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		go func() { answer <- a.e.Switchover(ctx, Request{Candidate: "b"}) }()
		pass(time.Second)
		if err := b.e.Pause(t.Context()); !errors.Is(err, ErrRefused) {
			t.Errorf("pause: %v", err)
		}
		if err := <-answer; err != nil {
			t.Error(err)
		}
		pass(time.Second)
		if err := b.e.Pause(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A pause keeps the fields of the configuration, and leaves one alone that is not
// readable.
func TestPauseKeepsTheConfiguration(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.put(t, cluster.ConfigKey, `{"ttl":30,"postgresql":{"use_slots":true}}`)
		a := w.start("a")
		w.leads(a)
		if err := a.e.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if c := w.view().Config; !c.Pause || len(c.Extra) != 1 || c.TTL != 30*time.Second {
			t.Errorf("%+v", c)
		}
		for _, value := range []string{`[1]`, `{"pause":"perhaps"}`} { // a config that is no object
			w.put(t, cluster.ConfigKey, value)
			if err := a.e.Resume(t.Context()); !errors.Is(err, ErrRefused) {
				t.Errorf("%v", err)
			}
		}
		synctest.Wait()
		if !a.e.Status().Paused {
			t.Error("a configuration that is not readable ends the pause")
		}
	})
}

// E10: a pause that is stored before the acquisition makes it fail, and one that is
// stored after it is seen before Promote.
func TestPausedMeanwhile(t *testing.T) {
	for name, op := range map[string]memstore.Op{"before the acquisition": memstore.OpCommit, "before the promotion": memstore.OpRenew} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				a := w.changedMeanwhile(t, op, cluster.ConfigKey, `{"pause":true}`)
				pass(time.Minute)
				if a.svc.promotes > 0 {
					t.Error("promoted in a pause")
				}
				if v := w.view(); v.Leader != nil {
					t.Errorf("the lock is kept: %+v", v.Leader)
				}
				a.stop()
				if taken := a.e.loop.lastToken != 0; taken != (op == memstore.OpRenew) {
					t.Errorf("lock taken: %v", taken)
				}
			})
		})
	}
}

// E1: Promote is not called on a Hold that no renewal has confirmed.
func TestConfirmBeforePromote(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.open("a")
		w.server.Inject(memstore.Match{Op: memstore.OpRenew, Client: "a"}, memstore.Hang())
		a.start()
		pass(25 * time.Second)
		if a.svc.promotes > 0 {
			t.Error("promoted without a confirmed Hold")
		}
	})
}

// E1: a process that was stopped while its Guardian was armed does not promote, although
// its fence timer has not run yet.
func TestLittleTimeAfterArming(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.start("a")
		w.leads(a)
		before := a.svc.promotes
		lead := a.e.Leading()
		if err := a.e.promote(a.e.timer.Load(), lead, lead.Remaining()+time.Second); err == nil || a.svc.promotes > before {
			t.Errorf("%v, %d promotions", err, a.svc.promotes-before)
		}
	})
}

// A keeper, and a failsafe list, mean that a member may lead without the lock.
func TestLeadersWithoutTheLock(t *testing.T) {
	for key, value := range map[string]string{
		cluster.KeeperKey:   `{"name":"x","instance":"i","token":7}`,
		cluster.FailsafeKey: `{"x":"http://x/"}`,
	} {
		t.Run(key, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				w.put(t, key, value)
				a := w.start("a")
				pass(2 * time.Minute)
				if err := a.e.Status().Refusal; a.svc.promotes > 0 || err == nil || !strings.Contains(err.Error(), key) {
					t.Errorf("%d promotions, refusal %v", a.svc.promotes, err)
				}
				w.server.Delete("default", cluster.Key(scope, key))
				w.leads(a)
			})
		})
	}
}
