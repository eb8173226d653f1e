package elector

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/cluster"
	"github.com/holdfast-dcs/holdfast/memstore"
)

// network carries the questions of the members to each other. It is an Asker and a
// FailsafeTransport.
type network struct {
	w    *world
	from string // the client that asks

	*links
}

// links are the state of a network.
type links struct {
	mu    sync.Mutex
	at    map[string]*member // by address
	cut   map[[2]string]bool // from a client to a client
	asked []string           // the members that were asked, in order
	spoil func(to string, r FailsafeRequest) (FailsafeAnswer, error, bool)
}

func (l *links) do(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

// reach returns the process at an address, or waits for ctx where there is none.
func (n network) reach(ctx context.Context, apiURL string) (*member, error) {
	n.mu.Lock()
	m := n.at[apiURL]
	cut := m == nil || n.cut[[2]string{n.from, m.name}]
	n.mu.Unlock()
	if cut || isClosed(m.ended) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return m, nil
}

func (n network) Ask(ctx context.Context, apiURL string) (cluster.Identity, error) {
	m, err := n.reach(ctx, apiURL)
	if err != nil {
		return cluster.Identity{}, err
	}
	return m.e.Identity(), nil
}

func (n network) AskFailsafe(ctx context.Context, apiURL string, r FailsafeRequest) (FailsafeAnswer, error) {
	n.mu.Lock()
	n.asked = append(n.asked, r.Member)
	spoil := n.spoil
	n.mu.Unlock()
	if spoil != nil {
		if a, err, ok := spoil(r.Member, r); ok {
			return a, err
		}
	}
	m, err := n.reach(ctx, apiURL)
	if err != nil {
		return FailsafeAnswer{}, err
	}
	return m.e.AcceptFailsafe(ctx, r)
}

func newLinks() *links {
	return &links{at: map[string]*member{}, cut: map[[2]string]bool{}}
}

// inFailsafe runs f in a cluster whose configuration has the mode, without members.
func inFailsafe(t *testing.T, f func(t *testing.T, w *world, l *links)) {
	t.Helper()
	inWorld(t, func(t *testing.T, w *world) {
		w.put(t, cluster.ConfigKey, `{"failsafe_mode":true}`)
		f(t, w, newLinks())
	})
}

// safe opens a process of a member that takes part in failsafe mode. Processes of one
// name have one address, which reaches the last of them.
func (w *world) safe(l *links, client, name string, change ...func(*Config)) *member {
	w.t.Helper()
	url := "http://" + name + "/"
	m := w.openAs(client, name, append([]func(*Config){func(c *Config) {
		n := network{w, client, l}
		c.Asker, c.Failsafe, c.Member.APIURL = n, n, url
	}}, change...)...)
	l.do(func() { l.at[url] = m })
	return m
}

// trio starts a leader and two members, and waits until all are in the list.
func (w *world) trio(l *links) (a, b, c *member) {
	w.t.Helper()
	a = w.safe(l, "a", "a").start()
	w.leads(a)
	b, c = w.safe(l, "b", "b").start(), w.safe(l, "c", "c").start()
	w.listed("a", "b", "c")
	return a, b, c
}

// listed waits until the list has these members.
func (w *world) listed(names ...string) {
	w.t.Helper()
	w.wait(time.Minute, "the list", func() bool {
		list := w.view().Failsafe
		for _, name := range names {
			if !list.Contains(name) {
				return false
			}
		}
		return len(list.Members) == len(names)
	})
	pass(time.Second)
}

// F2, F5: in an outage of the store the leader goes on while all members accept it. It
// takes the lock again afterwards without a demotion.
func TestFailsafeOutage(t *testing.T) {
	inFailsafe(t, func(t *testing.T, w *world, l *links) {
		a, b, c := w.trio(l)
		token := a.e.Leading().Token()
		w.server.Down()
		for range 20 {
			pass(30 * time.Second)
			if a.e.Leading() == nil || a.e.Leading().Remaining() == 0 {
				t.Fatalf("a does not lead, %v", a.svc.demotes)
			}
		}
		if at, limited := a.e.Leading().Deadline(); !limited || at.Elapsed() >= 0 {
			t.Error("no deadline in failsafe mode")
		}
		w.server.Up()
		w.wait(time.Minute, "the lock is taken again", func() bool { return a.e.Leading().Token() > token })
		pass(2 * time.Minute)
		if a.e.Leading() == nil || len(a.svc.demotes) > 0 || a.svc.promotes != 1 || b.svc.promotes+c.svc.promotes > 0 {
			t.Errorf("a %v, %v", a.e.Leading(), a.svc.demotes)
		}
		w.server.Down() // the new lock has a list of its own
		pass(5 * time.Minute)
		if a.e.Leading() == nil {
			t.Error("a does not lead in the second outage")
		}
	})
}

// F2: the leadership lasts from the first question of the round, and not from the
// answers.
func TestFailsafeLastsFromTheFirstQuestion(t *testing.T) {
	inFailsafe(t, func(t *testing.T, w *world, l *links) {
		a, _, _ := w.trio(l)
		var first time.Time
		l.do(func() {
			l.spoil = func(string, FailsafeRequest) (a FailsafeAnswer, err error, spoilt bool) {
				l.do(func() {
					if first.IsZero() {
						first = time.Now()
					}
				})
				time.Sleep(1500 * time.Millisecond)
				return a, nil, false
			}
		})
		w.server.Down()
		w.wait(time.Minute, "a round", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return !first.IsZero() })
		pass(1600 * time.Millisecond)
		if left := a.e.Leading().Remaining(); left != table(t).Deadline-time.Since(first) {
			t.Errorf("%v are left %v after the first question", left, time.Since(first))
		}
	})
}

// E7, E3: in failsafe mode the timer looks at the time for which the members have
// accepted the leader: a loop that hangs, and a Demote that does, are fenced by then.
func TestFailsafeHangs(t *testing.T) {
	whole := rows
	defer func() { rows = whole }()
	for _, name := range []string{"loop", "Demote"} {
		t.Run(name, func(t *testing.T) {
			inFailsafe(t, func(t *testing.T, w *world, l *links) {
				var armed atomic.Bool
				rows = append([]row{{"hangs", Leading, func(facts) bool {
					if armed.CompareAndSwap(true, false) {
						_ = w.hang()
					}
					return false
				}, doNothing, Leading}}, whole...)
				a, _, _ := w.trio(l)
				a.svc.do(func() { a.svc.onDemote = func(context.Context, Reason) error { return w.hang() } })
				w.server.Down()
				pass(time.Minute) // the lock has run out
				lead := a.e.Leading()
				if lead == nil {
					t.Fatal("not accepted")
				}
				armed.Store(name == "loop")
				l.do(func() { l.cut[[2]string{"a", "b"}] = true })
				w.wait(time.Minute, "a is fenced", func() bool { _, _, n := a.svc.calls(); return n > 0 })
				at, _ := lead.Deadline()
				between(t, "deadline after the fence", at.Sub(dcs.Now()), time.Second-20*time.Millisecond, time.Second)
				if a.svc.fences != 1 {
					t.Errorf("%d fences", a.svc.fences)
				}
			})
		})
	}
}

// In failsafe mode the Guardian gets each deadline.
func TestGuardianInFailsafe(t *testing.T) {
	inFailsafe(t, func(t *testing.T, w *world, l *links) {
		var g fakeGuardian
		a := w.safe(l, "a", "a", guarded(&g)).start()
		w.leads(a)
		w.safe(l, "b", "b").start()
		w.listed("a", "b")
		w.server.Down()
		pass(time.Minute)
		for range 10 {
			pass(7 * time.Second)
			lead := a.e.Leading()
			if lead == nil {
				t.Fatal("not accepted")
			}
			deadline, _ := lead.Deadline()
			armed, at := g.state()
			b := a.e.Status().Table
			if off := at.Sub(deadline.Add(b.Guardian - b.Deadline)); !armed || off != 0 {
				t.Errorf("armed %v, %v after Table.Guardian", armed, off)
			}
		}
		a.stop()
		if armed, _ := g.state(); armed || !g.fired.IsZero() {
			t.Errorf("armed %v, fired at %v", armed, g.fired)
		}
	})
}

// E12: a shutdown in failsafe mode demotes, in time.
func TestFailsafeShutdown(t *testing.T) {
	inFailsafe(t, func(t *testing.T, w *world, l *links) {
		a, _, _ := w.trio(l)
		w.server.Down()
		pass(time.Minute)
		begin := time.Now()
		a.stop()
		between(t, "end", time.Since(begin), 0, 21*time.Second)
		if a.svc.is() || a.svc.lastCause() != CauseShutdown || a.svc.fences > 0 {
			t.Errorf("%v, %v", a.svc.is(), a.svc.demotes)
		}
	})
}

// Without failsafe_mode in the configuration the leader ends with its lock.
func TestFailsafeNotEnabled(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		l := newLinks()
		a := w.safe(l, "a", "a").start()
		w.leads(a)
		b := w.safe(l, "b", "b").start()
		pass(10 * time.Second)
		w.server.Down()
		pass(time.Minute)
		if a.svc.is() || b.svc.is() || len(l.asked) > 0 || !w.view().Failsafe.Empty() {
			t.Errorf("a %v, asked %v, list %+v", a.svc.is(), l.asked, w.view().Failsafe)
		}
	})
}

// F2: one member that does not accept ends the leadership in time.
func TestFailsafeRefused(t *testing.T) {
	type answer = FailsafeAnswer
	for name, spoil := range map[string]func(w *world, r FailsafeRequest) (answer, error){
		"silent": func(w *world, _ FailsafeRequest) (answer, error) { return answer{}, w.hang() }, // ignores its context
		"error":  func(*world, FailsafeRequest) (answer, error) { return answer{}, errors.New("no") },
		"panic":  func(*world, FailsafeRequest) (answer, error) { panic("no") },
		"refuses": func(_ *world, r FailsafeRequest) (answer, error) {
			return answer{r.Scope, r.Member, "i", false, "no"}, nil
		},
		"another member": func(_ *world, r FailsafeRequest) (answer, error) { return answer{r.Scope, "b", "i", true, ""}, nil },
		"another scope":  func(_ *world, r FailsafeRequest) (answer, error) { return answer{"x", r.Member, "i", true, ""}, nil },
		"the leader itself": func(_ *world, r FailsafeRequest) (answer, error) {
			return answer{r.Scope, r.Member, r.Instance, true, ""}, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			inFailsafe(t, func(t *testing.T, w *world, l *links) {
				a, b, c := w.trio(l)
				l.do(func() {
					l.spoil = func(to string, r FailsafeRequest) (FailsafeAnswer, error, bool) {
						if to != "c" {
							return answer{}, nil, false
						}
						a, err := spoil(w, r)
						return a, err, true
					}
				})
				begin := time.Now()
				w.server.Down()
				w.wait(time.Minute, "a demotes", func() bool { _, n, _ := a.svc.calls(); return n > 0 })
				b1 := a.e.Status().Table
				between(t, "demotion", a.svc.demoted.Sub(begin), b1.Demote-b1.Renew, b1.Demote)
				pass(time.Minute)
				if a.svc.is() || a.svc.fences > 0 || a.svc.lastCause() != CauseExpiring || !slices.Contains(l.asked, "b") {
					t.Errorf("primary %v, %v, asked %v", a.svc.is(), a.svc.demotes, l.asked)
				}
				w.server.Up()
				w.wait(2*time.Minute, "a leader", func() bool { return a.e.Leading() != nil || b.e.Leading() != nil || c.e.Leading() != nil })
			})
		})
	}
}

// F1, F4: the leader alone empties the list, when the mode ends. By force it is not
// emptied while a member has the lock.
func TestFailsafeEnds(t *testing.T) {
	inFailsafe(t, func(t *testing.T, w *world, l *links) {
		a, b, _ := w.trio(l)
		if err := b.e.EmptyFailsafe(t.Context()); !errors.Is(err, ErrRefused) || w.view().Failsafe.Empty() {
			t.Error(err)
		}
		w.server.Inject(memstore.Match{Client: "a", Op: memstore.OpRenew | memstore.OpGrant}, memstore.Hang())
		w.wait(time.Minute, "a is accepted", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.asked) > 0 })
		pass(100 * time.Millisecond)
		if _, err := b.e.PatchConfig(t.Context(), []byte(`{"failsafe_mode":false}`)); err != nil {
			t.Fatal(err)
		}
		pass(100 * time.Millisecond)
		if !w.view().Failsafe.Empty() {
			t.Errorf("%+v", w.view().Failsafe)
		}
		w.wait(2*time.Minute, "another leader", func() bool { return a.e.Leading() == nil })
		pass(time.Minute)
		if a.svc.fences > 0 {
			t.Error("a was fenced")
		}
	})
}

// F1: a leader whose list was not confirmed for this lock asks nobody.
func TestFailsafeListUnconfirmed(t *testing.T) {
	inFailsafe(t, func(t *testing.T, w *world, l *links) {
		a := w.safe(l, "a", "a").start()
		w.leads(a)
		w.wait(time.Minute, "the list is there", func() bool { return !w.view().Failsafe.Empty() })
		b := w.safe(l, "b", "b").start()
		w.listed("a", "b")
		w.server.Inject(memstore.Match{Op: memstore.OpCommit, Client: "b", Key: cluster.Key(scope, cluster.FailsafeKey), When: func(c memstore.Call) bool { return b.svc.is() }}, memstore.Hang())
		pass(time.Minute) // after the wait of its start
		if err := a.e.Switchover(t.Context(), Request{Candidate: "b"}); err != nil {
			t.Fatal(err)
		}
		pass(5 * time.Second)
		l.do(func() { l.asked = nil })
		w.server.Down()
		pass(time.Minute)
		if b.svc.is() || len(l.asked) > 0 {
			t.Errorf("b %v, asked %v", b.svc.is(), l.asked)
		}
	})
}

// F1: before a list with a new member is sent, the acceptances of the others end: the
// new member could take the lock.
func TestFailsafeNewMember(t *testing.T) {
	for name, answers := range map[string]bool{"accepts": true, "is silent": false} {
		t.Run(name, func(t *testing.T) {
			inFailsafe(t, func(t *testing.T, w *world, l *links) {
				a, _, _ := w.trio(l)
				w.server.Inject(memstore.Match{Client: "a", Op: memstore.OpRenew | memstore.OpGrant}, memstore.Hang()) // it can write
				w.wait(time.Minute, "a is accepted", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.asked) > 0 })
				pass(100 * time.Millisecond)
				if a.e.Leading().Remaining() < 25*time.Second {
					t.Fatal("not accepted")
				}
				d := w.safe(l, "d", "d")
				l.do(func() { l.cut[[2]string{"a", "d"}] = !answers })
				d.start()
				w.listed("a", "b", "c", "d")
				if lead := a.e.Leading(); !answers && lead != nil && lead.Remaining() > 15*time.Second {
					t.Errorf("accepted for %v without d", lead.Remaining())
				}
				pass(2 * time.Minute)
				l.mu.Lock()
				asked := slices.Contains(l.asked, "d")
				l.mu.Unlock()
				if (a.e.Leading() != nil) != answers || !asked || a.svc.fences > 0 {
					t.Errorf("leading %v, asked %v, %d fences", a.e.Leading() != nil, l.asked, a.svc.fences)
				}
			})
		})
	}
}

// F1: while the write of a shorter list is unclear, the member that would leave it is
// asked too.
func TestFailsafeUnclearList(t *testing.T) {
	inFailsafe(t, func(t *testing.T, w *world, l *links) {
		a, _, c := w.trio(l)
		w.server.Inject(memstore.Match{Client: "a", Op: memstore.OpCommit, Key: cluster.Key(scope, cluster.FailsafeKey)}, memstore.Hang())
		c.stop()
		pass(time.Second)
		w.server.Down()
		pass(time.Minute)
		if a.svc.is() || !slices.Contains(l.asked, "c") {
			t.Errorf("a %v, asked %v", a.svc.is(), l.asked)
		}
	})
}

// F5, E2: another member that has the lock, and a list that an operator has emptied, end
// the leadership at once.
func TestFailsafeLost(t *testing.T) {
	for name, do := range map[string]func(t *testing.T, w *world, b *member){
		"taken over": func(t *testing.T, w *world, _ *member) { w.put(t, cluster.LeaderKey, "x") },
		"emptied": func(t *testing.T, _ *world, b *member) {
			if err := b.e.EmptyFailsafe(t.Context()); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			inFailsafe(t, func(t *testing.T, w *world, l *links) {
				a, b, c := w.trio(l)
				cut := w.server.Inject(memstore.Match{Client: "a"}, memstore.Hang())
				pass(time.Minute)
				hang := w.server.Inject(memstore.Match{Client: "a", Op: memstore.OpGrant}, memstore.Hang()) // it does not take the lock again
				do(t, w, b)
				cut.Lift()
				pass(5 * time.Second)
				if a.svc.is() || a.svc.lastCause() != CauseLost || b.svc.is() || c.svc.is() {
					t.Errorf("a %v, %v", a.svc.is(), a.svc.demotes)
				}
				hang.Lift()
			})
		})
	}
}

// E11: a leader in failsafe mode does not take its lock again in a pause, and goes on
// while it is accepted.
func TestFailsafePausedMeanwhile(t *testing.T) {
	inFailsafe(t, func(t *testing.T, w *world, l *links) {
		a, b, _ := w.trio(l)
		token := a.e.Leading().Token()
		cut := w.server.Inject(memstore.Match{Client: "a"}, memstore.Hang())
		pass(time.Minute)
		w.pause(b)
		cut.Lift()
		pass(5 * time.Minute)
		if a.e.Leading() == nil || a.e.Leading().Token() != token || len(a.svc.demotes) > 0 {
			t.Errorf("%v", a.svc.demotes)
		}
		w.resume(b)
		w.wait(time.Minute, "the lock is taken again", func() bool { return a.e.Leading() != nil && a.e.Leading().Token() > token })
	})
}

// F5: a leader whose keeper record could not be removed takes its lock again after the
// outage, and removes the record then.
func TestFailsafeKeeperRemovalCutOff(t *testing.T) {
	inFailsafe(t, func(t *testing.T, w *world, l *links) {
		a, b, _ := w.trio(l)
		w.pause(b)
		w.wait(time.Minute, "a is the keeper", func() bool { return a.e.Status().Kept })
		removal := w.server.Inject(memstore.Match{Client: "a", Op: memstore.OpCommit, Key: cluster.Key(scope, cluster.KeeperKey)}, memstore.Hang())
		w.resume(b)
		pass(2 * time.Second)
		cut := w.server.Inject(memstore.Match{Client: "a"}, memstore.Hang())
		pass(2 * time.Minute)
		if lead := a.e.Leading(); lead == nil || lead.hold.Valid() {
			t.Fatal("a does not lead without its lock")
		}
		cut.Lift()
		removal.Lift()
		w.wait(time.Minute, "the lock is taken again, and the record is gone", func() bool {
			return w.view().Leader != nil && w.view().Keeper == nil && a.e.Leading() != nil
		})
		if len(a.svc.demotes) > 0 {
			t.Errorf("%v", a.svc.demotes)
		}
	})
}

// F2: acceptances that arrive after the lock has run out extend nothing, also where
// nobody has looked at the deadline yet, because the process was stopped.
func TestLateAcceptances(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		store := w.open("a").store
		s, err := store.NewSession(t.Context(), dcs.SessionOptions{})
		if err != nil {
			t.Fatal(err)
		}
		hold, err := s.TryAcquire(t.Context(), "lock", nil)
		if err != nil {
			t.Fatal(err)
		}
		lead := newLeadership(store, hold)
		w.server.Down()
		pass(time.Minute)
		if lead.agree(dcs.Now().Add(time.Minute)) || lead.Valid() {
			t.Error("the leadership lasts again")
		}
	})
}
