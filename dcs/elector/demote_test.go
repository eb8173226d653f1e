package elector

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs/cluster"
	"github.com/holdfast-dcs/holdfast/memstore"
)

// E3: the fence time of each cause is fixed when the demotion begins. A Demote that
// misses it is fenced, once.
func TestHungDemote(t *testing.T) {
	type test struct {
		begin func(w *world, a *member)
		cause Cause
		want  func(b Table, began, fenced time.Duration) bool
	}
	b := table(t)
	for name, test := range map[string]test{
		"renewals fail": {
			func(w *world, _ *member) { w.server.Inject(memstore.Match{Client: "a"}, memstore.Hang()) },
			CauseExpiring,
			func(b Table, began, fenced time.Duration) bool { return fenced-began == b.Fence-b.Demote },
		},
		"lock lost": {
			func(w *world, _ *member) { // another one has taken it over
				w.put(w.t, cluster.LeaderKey, "x")
			},
			CauseLost,
			func(_ Table, began, fenced time.Duration) bool { return fenced-began == time.Second },
		},
		"shutdown": {
			func(_ *world, a *member) { a.cancel() },
			CauseShutdown,
			// The deadline at the beginning counts, although renewals go on (E6).
			func(b Table, began, fenced time.Duration) bool {
				return fenced-began <= b.Fence && fenced-began >= b.Fence-b.Renew
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				a, other := w.pair()
				a.svc.do(func() { a.svc.onDemote = func(context.Context, Reason) error { return w.hang() } })
				test.begin(w, a)
				w.wait(time.Minute, "a is fenced", func() bool { _, _, n := a.svc.calls(); return n > 0 })
				if name != "lock lost" {
					w.leads(other)
				}
				began, fenced := a.svc.demoted.Sub(epoch), a.svc.fenced.Sub(epoch)
				if a.svc.fences != 1 || a.svc.lastCause() != test.cause || !test.want(b, began, fenced) {
					t.Errorf("%d fences, %v, demotion at %v, fenced at %v, %v later", a.svc.fences, a.svc.lastCause(), began, fenced, fenced-began)
				}
				if ends := a.svc.ends.Sub(epoch); ends != fenced {
					t.Errorf("the context of Demote ended at %v, fenced at %v", ends, fenced)
				}
			})
		})
	}
}

// E3: a Demote that fails or panics is fenced at once, and once, and another member leads.
func TestDemoteFails(t *testing.T) {
	for name, demote := range map[string]func() error{
		"error": func() error { return errors.New("no") },
		"panic": func() error { panic("no") },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				a, b := w.pair()
				a.svc.do(func() { a.svc.onDemote = func(context.Context, Reason) error { return demote() } })
				if err := a.e.Switchover(t.Context(), Request{Candidate: "b"}); err != nil {
					t.Error(err)
				}
				pass(time.Minute)
				if b.e.Leading() == nil || a.svc.fences != 1 || len(a.svc.demotes) != 1 || a.svc.fenced.Sub(a.svc.demoted) != 0 {
					t.Errorf("%d demotions, %d fences, %v later", len(a.svc.demotes), a.svc.fences, a.svc.fenced.Sub(a.svc.demoted))
				}
			})
		})
	}
}

// E6, E3: renewals go on during a demotion that was asked for, and HandoverTimeout
// bounds it.
func TestHandoverTimeout(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.pair(func(c *Config) { c.Timing.HandoverTimeout = 15 * time.Second })
		a.svc.do(func() {
			a.svc.onDemote = func(context.Context, Reason) error { time.Sleep(14 * time.Second); return nil }
		})
		renewals := w.server.Requests(memstore.Match{Op: memstore.OpRenew, Client: "a"})
		a.cancel()
		w.leads(b)
		if a.svc.fences > 0 || w.server.Requests(memstore.Match{Op: memstore.OpRenew, Client: "a"}) == renewals {
			t.Errorf("%d fences", a.svc.fences)
		}
		<-a.ended
		if a.err != nil {
			t.Error(a.err)
		}
	})
}

// A lock that is lost during a demotion that was asked for brings the fence time
// forward, and never back.
func TestLostWhileHandingOver(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.start("a")
		w.leads(a)
		a.svc.do(func() { a.svc.onDemote = func(ctx context.Context, _ Reason) error { <-ctx.Done(); return ctx.Err() } })
		a.cancel()
		pass(time.Second)
		w.server.Delete("default", cluster.Key(scope, cluster.LeaderKey))
		pass(table(t).Renew + 2*time.Second)
		if a.svc.fences != 1 {
			t.Errorf("%d fences", a.svc.fences)
		}
	})
}

// E8, E9: a Promote that fails, panics or takes too long is demoted, the others come
// first although they are behind, and the failed member tries again later.
func TestPromoteFails(t *testing.T) {
	for name, promote := range map[string]func(w *world, ctx context.Context) error{
		"error":   func(*world, context.Context) error { return errors.New("no") },
		"panic":   func(*world, context.Context) error { panic("no") },
		"timeout": func(_ *world, ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				a := w.open("a")
				a.svc.position = 100
				a.svc.do(func() { a.svc.onPromote = func(ctx context.Context) error { return promote(w, ctx) } })
				a.start()
				w.wait(time.Minute, "a promotes", func() bool { n, _, _ := a.svc.calls(); return n > 0 })
				b := w.start("b")
				w.leads(b)
				if a.svc.promotes != 1 || a.svc.lastCause() != CausePromote || a.svc.fences > 0 {
					t.Errorf("%d promotions, %d fences, %v", a.svc.promotes, a.svc.fences, a.svc.demotes)
				}
				if m, _ := w.view().Member("a"); m.State != cluster.StateFailed {
					t.Errorf("state %q", m.State)
				}
				a.svc.do(func() { a.svc.onPromote = nil })
				b.stop()
				w.leads(a)
				pass(time.Second)
				if m, _ := w.view().Member("a"); m.State != cluster.StateRunning || a.e.Status().Failed {
					t.Errorf("state %q after a promotion", m.State)
				}
			})
		})
	}
}

// E9: alone, a member whose promotion fails tries again after a LoopWait, then after
// twice the time, up to the TTL.
func TestPromoteFailsAlone(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.open("a")
		var at []time.Duration
		a.svc.do(func() {
			a.svc.onPromote = func(context.Context) error { at = append(at, time.Since(epoch)); return errors.New("no") }
		})
		a.start()
		pass(3 * time.Minute)
		for i, want := range []time.Duration{10 * time.Second, 20 * time.Second, 30 * time.Second, 30 * time.Second} {
			between(t, "next attempt", at[i+1]-at[i], want, want+time.Second)
		}
	})
}

// A Promote that ignores its context is fenced; the lock is given back although it
// still hangs, and the member acquires nothing before it has returned (E8).
func TestHungPromote(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.open("a", func(c *Config) { c.Timing.PromoteTimeout = 5 * time.Second })
		free := make(chan struct{})
		a.svc.onPromote = func(context.Context) error {
			select {
			case <-free:
			case <-w.end:
			}
			return nil
		}
		a.start()
		w.wait(time.Minute, "a promotes", func() bool { n, _, _ := a.svc.calls(); return n > 0 })
		b := w.start("b")
		w.leads(b)
		if a.svc.fences != 1 || len(a.svc.demotes) > 0 || a.e.Status().State != Fenced {
			t.Errorf("%d fences, %d demotions, %v", a.svc.fences, len(a.svc.demotes), a.e.Status().State)
		}
		b.stop()
		pass(2 * time.Minute)
		if a.svc.promotes != 1 {
			t.Error("acquired while a callback runs")
		}
		a.svc.do(func() { a.svc.onPromote = nil })
		close(free)
		w.leads(a)
	})
}

// E3, E5: a Fence that fails, panics or hangs ends the process, and the lock is left
// to expire.
func TestFenceFails(t *testing.T) {
	for name, fence := range map[string]func(w *world) error{
		"error": func(*world) error { return errors.New("no") },
		"panic": func(*world) error { panic("no") },
		"hangs": func(w *world) error { return w.hang() },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				a, b := w.pair()
				a.svc.do(func() { a.svc.onDemote = func(context.Context, Reason) error { return errors.New("no") } })
				a.svc.do(func() { a.svc.onFence = func(Reason) error { return fence(w) } })
				renewed := time.Now()
				a.cancel()
				r := <-a.exited
				between(t, "exit", time.Since(renewed), 0, table(t).Guardian)
				w.leads(b)
				between(t, "failover", b.svc.promoted.Sub(renewed), table(t).Others-table(t).Renew, table(t).Others+time.Second)
				<-a.ended
				if r.Cause != CauseShutdown || a.svc.fences != 2 || !errors.Is(a.err, ErrNotStopped) { // exit counts too
					t.Errorf("%v, %d fences, %v", r, a.svc.fences, a.err)
				}
			})
		})
	}
}

// A Service that is no Fencer ends the process.
func TestNoFencer(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.open("a", func(c *Config) { c.Service = struct{ Service }{c.Service} })
		a.svc.onDemote = func(_ context.Context, r Reason) error {
			if r.Cause == CauseStart {
				return nil
			}
			return w.hang()
		}
		a.start()
		w.leads(a)
		a.cancel()
		<-a.exited
		<-a.ended
		if !errors.Is(a.err, ErrNotStopped) {
			t.Error(a.err)
		}
		close(a.exited)
	})
}

// E7: when the loop hangs, renewals stop after half of the TTL and the timer fences.
func TestLoopHangs(t *testing.T) {
	whole := rows
	defer func() { rows = whole }()
	inWorld(t, func(t *testing.T, w *world) {
		hang := make(chan struct{})
		var armed atomic.Bool
		rows = append([]row{{"hangs", Leading, func(facts) bool {
			if armed.CompareAndSwap(true, false) {
				select {
				case <-hang:
				case <-w.end:
				}
			}
			return false
		}, doNothing, Leading}}, whole...)
		a, b := w.pair()
		begin := time.Now()
		armed.Store(true)
		w.leads(b)
		b1 := table(t)
		between(t, "fenced", a.svc.fenced.Sub(begin), b1.Gate+b1.Fence-2*b1.Renew, b1.Gate+b1.Fence+b1.Renew)
		if a.svc.fences != 1 || len(a.svc.demotes) > 0 {
			t.Errorf("%d fences, %v", a.svc.fences, a.svc.demotes)
		}
		close(hang)
		w.wait(time.Minute, "a follows", func() bool { return a.e.Status().State == Following })
	})
}

// E3: a deadline that the store moves back during a demotion that was asked for brings
// the fence time forward: the service is stopped before the deadline and not after it.
func TestShorterWhileHandingOver(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.start("a")
		w.leads(a)
		hold := a.e.Leading().hold
		a.svc.do(func() { a.svc.onDemote = func(context.Context, Reason) error { return w.hang() } })
		a.cancel()
		pass(100 * time.Millisecond)
		w.server.LimitTTL(12 * time.Second)
		pass(table(t).Renew + 2*time.Second)
		w.server.Down()
		deadline := hold.Deadline()
		w.wait(time.Minute, "a is fenced", func() bool { _, _, n := a.svc.calls(); return n > 0 })
		between(t, "deadline after the fence", -deadline.Elapsed(), 900*time.Millisecond, time.Second)
	})
}

// E7: the timer may be put on another Hold while it fires.
func TestFenceWhileTheHoldChanges(t *testing.T) {
	inWorld(t, func(_ *testing.T, w *world) {
		f := &fenceTimer{
			service: w.open("a").svc, log: slog.New(slog.DiscardHandler), notify: func() {}, begun: true,
			timing: Timing{FenceTimeout: time.Second}, changed: make(chan struct{}, 1), entered: make(chan struct{}),
		}
		used := make(chan struct{})
		go func() { // ends at once
			defer close(used)
			<-f.entered
			f.use(nil, nil, Timing{FenceTimeout: 2 * time.Second})
		}()
		f.fire()
		<-used
	})
}
