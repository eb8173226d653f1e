package elector

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/cluster"
	"github.com/holdfast-dcs/holdfast/memstore"
)

// fakeGuardian stops f at its instant. It belongs to no process and therefore outlives
// one that exits. Its fields are guarded by f.mu.
type fakeGuardian struct {
	f       *fake
	onArm   func() error
	timer   *time.Timer // nil if it is not armed
	at      dcs.Instant
	armed   int       // how often
	fired   time.Time // zero if it has not
	stopped bool      // it has since Arm
	extends int
}

// guarded gives a member a fakeGuardian.
func guarded(g *fakeGuardian) func(*Config) {
	return func(c *Config) {
		g.f, _ = c.Service.(*fake)
		c.Guardian = g
	}
}

func (g *fakeGuardian) Arm(at dcs.Instant) error {
	g.f.mu.Lock()
	hook := g.onArm
	g.f.mu.Unlock()
	if hook != nil {
		if err := hook(); err != nil {
			return err
		}
	}
	g.f.mu.Lock()
	defer g.f.mu.Unlock()
	g.f.w.note("%s guardian armed", g.f.name)
	g.at, g.stopped = at, false
	g.armed++
	g.timer = time.AfterFunc(-at.Elapsed(), g.fire)
	return nil
}

func (g *fakeGuardian) Extend(at dcs.Instant) error {
	g.f.mu.Lock()
	defer g.f.mu.Unlock()
	if g.timer != nil {
		g.at = at
		g.extends++
		g.timer.Reset(-at.Elapsed())
	}
	if g.stopped {
		return errors.New("the service was stopped")
	}
	return nil
}

// Fired reports whether g has stopped the service.
func (g *fakeGuardian) Fired() bool {
	g.f.mu.Lock()
	defer g.f.mu.Unlock()
	return g.stopped
}

func (g *fakeGuardian) Disarm() error {
	g.f.mu.Lock()
	defer g.f.mu.Unlock()
	g.f.w.note("%s guardian disarmed", g.f.name)
	if g.timer != nil {
		g.timer.Stop()
		g.timer = nil
	}
	g.stopped = false
	return nil
}

func (g *fakeGuardian) fire() {
	g.f.mu.Lock()
	defer g.f.mu.Unlock()
	if g.timer == nil || g.at.Elapsed() < 0 {
		return
	}
	g.f.w.note("%s guardian fires", g.f.name)
	g.timer, g.fired, g.stopped = nil, time.Now(), true
	if g.f.fences == 0 {
		g.f.w.mu.Lock()
		g.f.w.faults = append(g.f.w.faults, g.f.name+": the guardian fired before Fence was called")
		g.f.w.mu.Unlock()
	}
	g.f.fences++
	g.f.turn(false)
}

// state reports whether the guardian is armed, and its instant.
func (g *fakeGuardian) state() (armed bool, at dcs.Instant) {
	g.f.mu.Lock()
	defer g.f.mu.Unlock()
	return g.timer != nil, g.at
}

// The Guardian is armed before Promote, gets each deadline, and is disarmed after
// Demote.
func TestGuardianHasTheDeadline(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var g fakeGuardian
		a := w.open("a", guarded(&g))
		a.svc.onPromote = func(context.Context) error {
			if armed, _ := g.state(); !armed {
				t.Error("Promote was called without the Guardian")
			}
			return nil
		}
		a.svc.onDemote = func(context.Context, Reason) error {
			if armed, _ := g.state(); !armed {
				t.Error("the Guardian was disarmed before Demote has returned")
			}
			return nil
		}
		a.start()
		w.leads(a)
		b := table(t)
		for range 10 {
			pass(b.Renew)
			_, at := g.state()
			if want := a.e.Leading().hold.Deadline().Add(b.Guardian - b.Deadline); at.Sub(want) != 0 {
				t.Errorf("the Guardian fires %v after Table.Guardian", at.Sub(want))
			}
		}
		a.stop()
		if armed, _ := g.state(); armed || g.armed != 1 || g.extends < 10 || !g.fired.IsZero() {
			t.Errorf("armed %v, %d times, %d extensions, fired at %v", armed, g.armed, g.extends, g.fired)
		}
	})
}

// If nothing in the process stops the service, the Guardian does, before the deadline.
func TestGuardianStopsTheService(t *testing.T) {
	for name, fence := range map[string]func(w *world) error{
		"Fence hangs": func(w *world) error { return w.hang() },
		"Fence fails": func(*world) error { return errors.New("no") },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				var g fakeGuardian
				a := w.start("a", guarded(&g), func(c *Config) { c.Exit = func(Reason) { _ = w.hang() } })
				w.leads(a)
				other := w.start("b")
				a.svc.do(func() {
					a.svc.onDemote = func(context.Context, Reason) error { return w.hang() }
					a.svc.onFence = func(Reason) error { return fence(w) }
				})
				pass(table(t).Renew)
				w.server.Inject(memstore.Match{Client: "a"}, memstore.Hang())
				deadline := a.e.Leading().hold.Deadline()
				w.leads(other)
				b := table(t)
				if early := time.Since(g.fired) - deadline.Elapsed(); g.fired.IsZero() || early != b.Deadline-b.Guardian {
					t.Errorf("fired %v before the deadline, want %v", early, b.Deadline-b.Guardian)
				}
			})
		})
	}
}

// A process that was stopped until the Guardian has fired, and goes on before the deadline,
// does not lead without its service.
func TestGuardianFiredUnnoticed(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var g fakeGuardian
		silent := func(c *Config) { // a service without Report
			c.Service = struct {
				Service
				Fencer
			}{g.f, g.f}
		}
		a := w.start("a", guarded(&g), silent)
		w.leads(a)
		a.svc.do(func() {
			g.timer.Stop()
			g.timer, g.stopped = nil, true
			a.svc.turn(false)
		})
		w.wait(time.Minute, "the service is primary again", a.svc.is)
		if promotes, _, fences := a.svc.calls(); promotes != 2 || fences != 0 || a.svc.lastCause() != CauseUnhealthy {
			t.Errorf("%d promotions, %d fences, cause %v", promotes, fences, a.svc.lastCause())
		}
	})
}

// A service that cannot be guarded is not promoted, and another member leads.
func TestGuardianCannotBeArmed(t *testing.T) {
	for name, arm := range map[string]func(w *world) error{
		"error": func(*world) error { return errors.New("no") },
		"slow":  func(*world) error { time.Sleep(15 * time.Second); return errors.New("no") },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				var g fakeGuardian
				a := w.open("a", guarded(&g))
				a.svc.position = 100
				var tries atomic.Int32
				g.onArm = func() error { tries.Add(1); return arm(w) }
				a.start()
				w.wait(time.Minute, "a arms its Guardian", func() bool { return tries.Load() > 0 })
				b := w.start("b")
				w.leads(b)
				if n, _, _ := a.svc.calls(); n > 0 {
					t.Errorf("%d promotions", n)
				}
			})
		})
	}
}

// A lock that is lost moves the Guardian to an earlier instant.
func TestGuardianAfterALoss(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var g fakeGuardian
		a := w.start("a", guarded(&g))
		w.leads(a)
		a.svc.do(func() { a.svc.onDemote = func(context.Context, Reason) error { return w.hang() } })
		w.put(t, cluster.LeaderKey, "x")
		w.wait(time.Minute, "a demotes", func() bool { _, n, _ := a.svc.calls(); return n > 0 })
		pass(time.Millisecond)
		b := table(t)
		if armed, at := g.state(); !armed || -at.Elapsed() > time.Second+b.Guardian-b.Fence {
			t.Errorf("armed %v, fires in %v", armed, -at.Elapsed())
		}
		pass(2 * time.Second)
		if armed, _ := g.state(); armed || a.svc.fences != 1 {
			t.Errorf("armed %v after Fence, %d fences", armed, a.svc.fences)
		}
	})
}

// The Guardian guards the demotion of a service that was found primary.
func TestGuardianOfAServiceFoundPrimary(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var g fakeGuardian
		a := w.open("a", guarded(&g), func(c *Config) { c.Exit = func(Reason) { _ = w.hang() } })
		a.svc.turn(true)
		a.svc.onDemote = func(context.Context, Reason) error { return w.hang() }
		a.svc.onFence = func(Reason) error { return w.hang() }
		a.start()
		w.wait(time.Minute, "the Guardian fires", func() bool { return !a.svc.is() })
		b := table(t)
		if got := g.fired.Sub(a.svc.demoted); got != time.Second+b.Guardian-b.Fence {
			t.Errorf("fired %v after Demote was called", got)
		}
	})
}

// A service with a keeper is not guarded, so that its manager can be replaced, and is
// guarded again after the pause.
func TestGuardianUnderAKeeper(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var g fakeGuardian
		a := w.start("a", guarded(&g))
		w.leads(a)
		if err := a.e.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.wait(time.Minute, "the Guardian is disarmed", func() bool { armed, _ := g.state(); return !armed && a.e.Status().Kept })
		pass(time.Minute)
		if err := a.e.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.wait(time.Minute, "the Guardian is armed again", func() bool { armed, _ := g.state(); return armed && !a.e.Status().Kept })
		a.stop()
		if armed, _ := g.state(); armed || !g.fired.IsZero() || g.armed != 2 {
			t.Errorf("armed %v, %d times, fired %v", armed, g.armed, g.fired)
		}
	})
}

// A Guardian replaces Exit for a Service without Fence.
func TestGuardianInsteadOfExit(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		store := w.open("a").store
		c := Config{Store: store, Scope: scope, Name: "a", Service: &runner{}}
		if _, err := New(c); !errors.Is(err, dcs.ErrInvalid) {
			t.Error(err)
		}
		c.Guardian = &fakeGuardian{}
		if _, err := New(c); err != nil {
			t.Error(err)
		}
	})
}

// At the end of a pause the Guardian is armed before the keeper record is removed. While
// it cannot be armed, the record stays.
func TestGuardianBeforeTheKeeperEnds(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var g fakeGuardian
		a := w.start("a", guarded(&g))
		w.leads(a)
		w.pause(a)
		w.wait(time.Minute, "a is the keeper", func() bool { return a.e.Status().Kept })
		pass(time.Second)
		a.svc.do(func() { g.onArm = func() error { return errors.New("no") } })
		w.resume(a)
		pass(5 * time.Second)
		if armed, _ := g.state(); w.view().Keeper == nil || armed {
			t.Errorf("keeper %+v, armed %v", w.view().Keeper, armed)
		}
		a.svc.do(func() { g.onArm = nil })
		w.wait(10*time.Second, "the record is gone", func() bool { return w.view().Keeper == nil })
		if armed, _ := g.state(); !armed || a.svc.demotes != nil {
			t.Errorf("armed %v, %v", armed, a.svc.demotes)
		}
	})
}
