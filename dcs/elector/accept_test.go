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

// F3, F4: while a leader that is cut off from the store alone is accepted, no member
// takes its lock. When they do not hear of it any more, one does, after the leader has
// stopped.
func TestFailsafePartition(t *testing.T) {
	inFailsafe(t, func(t *testing.T, w *world, l *links) {
		a, b, c := w.trio(l)
		cut := w.server.Inject(memstore.Match{Client: "a"}, memstore.Hang())
		pass(10 * time.Minute)
		if a.e.Leading() == nil || b.svc.promotes+c.svc.promotes > 0 {
			t.Fatalf("a %v, b %d, c %d", a.e.Leading(), b.svc.promotes, c.svc.promotes)
		}
		if err := b.e.Status().Refusal; err == nil || !strings.Contains(err.Error(), `has accepted that "a" leads`) {
			t.Errorf("%v", err)
		}
		l.do(func() { l.cut[[2]string{"a", "b"}] = true })
		begin := time.Now()
		w.wait(2*time.Minute, "another leader", func() bool { return b.e.Leading() != nil || c.e.Leading() != nil })
		between(t, "failover", time.Since(begin), 0, 70*time.Second)
		if a.svc.is() || a.svc.fences > 0 {
			t.Errorf("a %v, %d fences", a.svc.is(), a.svc.fences)
		}
		cut.Lift()
	})
}

// F4: a member that has accepted and starts again does not know it, and waits.
func TestFailsafeAcceptorRestarts(t *testing.T) {
	inFailsafe(t, func(t *testing.T, w *world, l *links) {
		a, b, c := w.trio(l)
		w.server.Inject(memstore.Match{Client: "a"}, memstore.Hang())
		pass(60 * time.Second) // the lock has run out, and a is accepted
		if a.e.Leading() == nil || w.view().Leader != nil {
			t.Fatalf("a %v, leader %+v", a.e.Leading(), w.view().Leader)
		}
		asked := len(l.asked)
		w.wait(time.Minute, "another round", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.asked) > asked })
		pass(time.Millisecond)
		b.stop()
		next := w.safe(l, "b2", "b")
		l.do(func() { l.cut[[2]string{"a", "b2"}] = true })
		next.start()
		begin := time.Now()
		w.wait(3*time.Minute, "another leader", func() bool { return next.e.Leading() != nil || c.e.Leading() != nil })
		between(t, "failover", time.Since(begin), 30*time.Second, 40*time.Second)
		if a.svc.is() || a.svc.fences > 0 {
			t.Errorf("a %v", a.svc.is())
		}
	})
}

// F4: of two processes of one name the one that the others do not reach at its listed
// address takes no lock: the other one may have accepted a leader in its name.
func TestFailsafeTwin(t *testing.T) {
	inFailsafe(t, func(t *testing.T, w *world, l *links) {
		a, b, _ := w.trio(l)
		twin := w.safe(l, "b2", "b") // the address reaches it from now on
		w.server.Inject(memstore.Match{Client: "b2"}, memstore.Hang())
		twin.start()
		pass(time.Second)
		w.server.Inject(memstore.Match{Client: "a"}, memstore.Hang())
		pass(5 * time.Minute)
		if a.e.Leading() == nil || b.svc.promotes > 0 {
			t.Errorf("a %v, b %d", a.e.Leading(), b.svc.promotes)
		}
		if err := b.e.Status().Refusal; err == nil || !strings.Contains(err.Error(), "the address of this member in key") {
			t.Errorf("%v", err)
		}
	})
}

// F4: of two processes of one name the one that the others reach again takes no lock
// while a leader may last that the other one has accepted.
func TestFailsafeTwinDisplaced(t *testing.T) {
	inFailsafe(t, func(t *testing.T, w *world, l *links) {
		a, b, _ := w.trio(l)
		twin := w.safe(l, "b2", "b")
		w.server.Inject(memstore.Match{Client: "b2"}, memstore.Hang())
		twin.start()
		pass(time.Second)
		w.server.Inject(memstore.Match{Client: "a"}, memstore.Hang())
		pass(5 * time.Minute)
		asked := len(l.asked)
		w.wait(time.Minute, "another round", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.asked) > asked })
		pass(time.Millisecond)
		l.do(func() { l.at["http://b/"] = b })
		pass(2 * time.Minute)
		if a.e.Leading() == nil || b.svc.promotes > 0 {
			t.Errorf("a %v, b %d", a.e.Leading(), b.svc.promotes)
		}
	})
}

// F2: a leader that another process of its name has displaced at its address does not
// go on. That process may take the lock.
func TestFailsafeTwinOfTheLeader(t *testing.T) {
	inFailsafe(t, func(t *testing.T, w *world, l *links) {
		a, _, _ := w.trio(l)
		w.server.Inject(memstore.Match{Client: "a"}, memstore.Hang())
		pass(time.Minute)
		if a.e.Leading() == nil {
			t.Fatal("not accepted")
		}
		twin := w.safe(l, "a2", "a").start()
		begin := time.Now()
		w.wait(time.Minute, "a demotes", func() bool { _, n, _ := a.svc.calls(); return n > 0 })
		pass(10 * time.Minute)
		between(t, "demotion", a.svc.demoted.Sub(begin), 0, table(t).Demote)
		if a.svc.is() || a.svc.fences > 0 {
			t.Errorf("a %v, twin %v", a.svc.is(), twin.svc.is())
		}
	})
}

// F4: a member that is not in the list never takes the lock, and an operator can empty
// the list.
func TestFailsafeNotListed(t *testing.T) {
	for name, list := range map[string]string{"other members": `{"x":"http://x/"}`, "unreadable": `[]`} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) { // F4: also where the mode is off
				w.put(t, cluster.FailsafeKey, list)
				a := w.safe(newLinks(), "a", "a").start()
				pass(5 * time.Minute)
				if err := a.e.Status().Refusal; a.svc.promotes > 0 || err == nil || !strings.Contains(err.Error(), "not in the list") {
					t.Errorf("%d promotions, %v", a.svc.promotes, err)
				}
				w.server.Down()
				if err := a.e.EmptyFailsafe(t.Context()); !errors.Is(err, dcs.ErrUnavailable) {
					t.Error(err)
				}
				w.server.Up()
				if err := a.e.EmptyFailsafe(t.Context()); err != nil {
					t.Error(err)
				}
				w.leads(a)
				if err := a.e.EmptyFailsafe(t.Context()); err != nil { // it is empty
					t.Error(err)
				}
			})
		})
	}
}

// F3: the reasons why a member does not accept. Nothing changes.
func TestAcceptFailsafe(t *testing.T) {
	inFailsafe(t, func(t *testing.T, w *world, l *links) {
		a, b, _ := w.trio(l)
		plain := w.start("plain") // takes no part
		pass(time.Second)
		token := a.e.Leading().Token()
		good := FailsafeRequest{Scope: scope, Name: "a", Instance: a.e.instance, Token: token, TTL: 30 * time.Second, Member: "b"}
		for name, test := range map[string]struct {
			of     *member
			change func(r *FailsafeRequest)
			want   string
		}{
			"other scope":        {b, func(r *FailsafeRequest) { r.Scope = "x" }, `of cluster "pg", not "x"`},
			"other member":       {b, func(r *FailsafeRequest) { r.Member = "c" }, `member "b", not "c"`},
			"own name":           {b, func(r *FailsafeRequest) { r.Name = "b" }, "in the name of this member"},
			"no token":           {b, func(r *FailsafeRequest) { r.Token = 0 }, "must be those of a leader"},
			"no name":            {b, func(r *FailsafeRequest) { r.Name = "" }, "must be those of a leader"},
			"no ttl":             {b, func(r *FailsafeRequest) { r.TTL = 0 }, "must be those of a leader"},
			"long ttl":           {b, func(r *FailsafeRequest) { r.TTL = 48 * time.Hour }, "must be those of a leader"},
			"older token":        {b, func(r *FailsafeRequest) { r.Name, r.Token = "c", token-1 }, `member "a" has led since`},
			"leader":             {a, func(r *FailsafeRequest) { r.Name, r.Member = "b", "a" }, "in the state Leading"},
			"takes no part":      {plain, func(r *FailsafeRequest) { r.Member = "plain" }, "takes no part"},
			"older, of the same": {b, func(r *FailsafeRequest) { r.Token = token - 1 }, ""},
			"good":               {b, func(*FailsafeRequest) {}, ""},
		} {
			r := good
			test.change(&r)
			answer, err := test.of.e.AcceptFailsafe(t.Context(), r)
			if err != nil || answer.Accepted != (test.want == "") || !strings.Contains(answer.Reason, test.want) || answer.Instance != test.of.e.instance {
				t.Errorf("%s: %+v, %v, want %q", name, answer, err, test.want)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		b.stop()
		if _, err := b.e.AcceptFailsafe(t.Context(), good); err == nil {
			t.Error("a process that has stopped answers")
		}
		if _, err := w.open("idle").e.AcceptFailsafe(ctx, good); err == nil { // its loop does not run
			t.Error("a loop that does not run answers")
		}
	})
}

// F3: a token that the store cannot have given, because a smaller one is in force at a
// higher revision, is forgotten: the store was rebuilt. One that is higher than every
// revision that was read is not.
func TestRebuiltStore(t *testing.T) {
	inFailsafe(t, func(t *testing.T, w *world, l *links) {
		var log logs
		a := w.safe(l, "a", "a").start()
		w.leads(a)
		b := w.safe(l, "b", "b", log.to).start()
		w.listed("a", "b")
		token := a.e.Leading().Token()
		ask := func(name string, token dcs.Revision) bool {
			t.Helper()
			r := FailsafeRequest{Scope: scope, Name: name, Instance: "i", Token: token, TTL: 30 * time.Second, Member: "b"}
			answer, err := b.e.AcceptFailsafe(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			return answer.Accepted
		}
		read := func(revision, token dcs.Revision) {
			v := *b.e.View()
			v.Revision, v.Leader = revision, &cluster.Leader{Name: "c", Token: token}
			b.e.post(func() { b.e.takeView(&v) })
			pass(time.Second)
		}
		if ask("c", token-1) {
			t.Error("an older leader is accepted")
		}
		read(token+1000, token-1)
		if !ask("c", token-1) || ask("d", token-2) {
			t.Error("the leader of the rebuilt store is not accepted, or one before it")
		}
		if lines := log.with("the store was rebuilt"); len(lines) != 1 {
			t.Errorf("%q", lines)
		}
		if !ask("d", 1<<40) {
			t.Error("a newer leader is not accepted")
		}
		read(token+2000, token-1)
		if ask("c", token-1) {
			t.Error("a leader is accepted that another one has followed")
		}
	})
}

// An answer to a switchover that waits for a leader does not wait for ever where the
// store was rebuilt with smaller tokens.
func TestSwitchoverOnARebuiltStore(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, _ := w.pair()
		w.server.Inject(memstore.Match{Client: "b", Op: memstore.OpCommit}, memstore.Hang())
		answer := make(chan error, 1)
		go func() { answer <- a.e.Switchover(context.Background(), Request{Candidate: "b"}) }() //nolint:usetesting // it must have no deadline
		pass(time.Second)
		v := *a.e.View()
		v.Revision, v.Leader = v.Revision+1000, &cluster.Leader{Name: "c", Token: 1}
		a.e.post(func() { a.e.takeView(&v) })
		select {
		case err := <-answer:
			if err == nil || !strings.Contains(err.Error(), `member "c" has taken the lock`) {
				t.Errorf("%v", err)
			}
		case <-time.After(time.Minute):
			t.Error("no answer")
		}
	})
}

// F3: a member whose acquisition is under way accepts nobody.
func TestAcceptWhileAcquiring(t *testing.T) {
	inFailsafe(t, func(t *testing.T, w *world, l *links) {
		held := w.server.Inject(memstore.Match{Op: memstore.OpCommit, Key: cluster.Key(scope, cluster.LeaderKey)}, memstore.Hold(), memstore.Once())
		b := w.safe(l, "b", "b").start()
		w.wait(time.Minute, "the acquisition is held", func() bool { return held.Held() > 0 })
		r := FailsafeRequest{Scope: scope, Name: "a", Instance: "i", Token: 1 << 40, TTL: 30 * time.Second, Member: "b"}
		if a, err := b.e.AcceptFailsafe(t.Context(), r); err != nil || a.Accepted {
			t.Errorf("%+v, %v", a, err)
		}
		held.Release()
		w.leads(b)
	})
}

// F3: a leader that is accepted while this member decides keeps it from the lock, for
// the longer one of the two TTLs.
func TestAcceptWhileDeciding(t *testing.T) {
	inFailsafe(t, func(t *testing.T, w *world, l *links) {
		decide := make(chan struct{})
		b := w.safe(l, "b", "b", func(c *Config) { c.Policy = func(Situation) error { <-decide; return nil } }).start()
		pass(time.Second)
		r := FailsafeRequest{Scope: scope, Name: "a", Instance: "i", Token: 1 << 40, TTL: time.Minute, Member: "b"}
		if a, err := b.e.AcceptFailsafe(t.Context(), r); err != nil || !a.Accepted {
			t.Errorf("%+v, %v", a, err)
		}
		begin := time.Now()
		close(decide)
		w.leads(b)
		between(t, "lock", time.Since(begin), time.Minute, time.Minute+time.Second)
	})
}

// F3: an acquisition whose outcome is not known stays so until it is settled, also
// where a later one was not sent.
func TestUnclearAcquisitionStaysUnclear(t *testing.T) {
	inFailsafe(t, func(t *testing.T, w *world, l *links) {
		held := w.server.Inject(memstore.Match{Op: memstore.OpCommit, Key: cluster.Key(scope, cluster.LeaderKey)}, memstore.Hold())
		settling := w.server.Inject(memstore.Match{Op: memstore.OpSettle}, memstore.Hang())
		b := w.safe(l, "b", "b").start()
		w.wait(time.Minute, "the acquisition is held", func() bool { return held.Held() > 0 })
		r := FailsafeRequest{Scope: scope, Name: "a", Instance: "i", Token: 1 << 40, TTL: 30 * time.Second, Member: "b"}
		for range 200 {
			pass(100 * time.Millisecond)
			if a, err := b.e.AcceptFailsafe(t.Context(), r); err != nil || a.Accepted {
				t.Fatalf("%+v, %v after %v", a, err, time.Since(epoch))
			}
		}
		settling.Lift()
		held.Lift()
		held.Drop()
		w.leads(b)
	})
}

// F3: a leader that takes its lock again in an acquisition whose answer is lost, and is
// demoted meanwhile, accepts nobody until that is settled.
func TestUnclearRetake(t *testing.T) {
	inFailsafe(t, func(t *testing.T, w *world, l *links) {
		a, _, _ := w.trio(l)
		cut := w.server.Inject(memstore.Match{Client: "a"}, memstore.Hang())
		pass(time.Minute) // the lock has run out, and a is accepted
		held := w.server.Inject(memstore.Match{Client: "a", Op: memstore.OpCommit, Key: cluster.Key(scope, cluster.LeaderKey)}, memstore.Hold())
		settling := w.server.Inject(memstore.Match{Client: "a", Op: memstore.OpSettle}, memstore.Hang())
		cut.Lift()
		w.wait(time.Minute, "the acquisition is held", func() bool { return held.Held() > 0 })
		l.do(func() { l.cut[[2]string{"a", "b"}], l.cut[[2]string{"a", "c"}] = true, true })
		w.server.Inject(memstore.Match{Op: memstore.OpCommit, Key: cluster.Key(scope, cluster.LeaderKey)}, memstore.Hang()) // nobody else leads either
		w.wait(time.Minute, "a does not lead", func() bool { return a.e.Status().State == Following })
		r := FailsafeRequest{Scope: scope, Name: "b", Instance: "i", Token: 1 << 40, TTL: 30 * time.Second, Member: "a"}
		for range 100 {
			pass(100 * time.Millisecond)
			if answer, err := a.e.AcceptFailsafe(t.Context(), r); err != nil || answer.Accepted {
				t.Fatalf("%+v, %v", answer, err)
			}
		}
		settling.Lift()
		held.Drop()
	})
}
