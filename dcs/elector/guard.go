package elector

import (
	"sync/atomic"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Guardian stops the service from outside this process, when the process cannot stop
// it: because it is stopped, swapped out, killed or hangs. Package guardian has a child
// process and a watchdog device.
//
// An elector arms its Guardian before Promote and disarms it after Demote or Fence has
// returned nil, and while the service has a keeper. It calls one method at a time, and never in its loop. A method must not
// block for longer than about a second, because Promote and the end of Demote wait for
// it.
type Guardian interface {
	// Arm begins to guard. From then on the Guardian must stop the service at the
	// given instant at the latest, whether or not this process still runs. After an
	// error it must not stop the service; the elector then does not promote it.
	Arm(at dcs.Instant) error
	// Extend moves the instant, to an earlier one too. It changes nothing if the
	// Guardian is not armed. After an error the last instant may still be in force, or the
	// Guardian has stopped the service. A Guardian should report the latter with a method
	// Fired() bool, from the stop until Arm or Disarm is called: the elector then demotes.
	Extend(at dcs.Instant) error
	// Disarm ends the guard. After it has returned the Guardian must not stop the
	// service.
	Disarm() error
}

// guard keeps the Guardian at the deadline of one fence timer. The methods of a nil
// guard do nothing.
type guard struct {
	guardian Guardian
	timer    *fenceTimer
	changed  chan struct{} // the instant may have changed
	end      chan struct{} // closed by disarm and leave
	over     atomic.Bool   // disarm or leave was called
	fired    atomic.Bool   // the Guardian has stopped the service

	turn   chan struct{} // holds a value during each call, and protects the fields below
	wanted bool          // the service is guarded unless it has a keeper
	armed  bool
	at     dcs.Instant // of the Guardian
}

func newGuard(g Guardian, f *fenceTimer) *guard {
	return &guard{guardian: g, timer: f, changed: make(chan struct{}, 1), end: make(chan struct{}), turn: make(chan struct{}, 1)}
}

// lock begins a call and returns the function that ends it.
func (g *guard) lock() (unlock func()) {
	g.turn <- struct{}{}
	return func() { <-g.turn }
}

// arm arms the Guardian, which then follows the deadline until disarm or leave. It
// does nothing if the Guardian is armed, or if the service has a keeper.
func (g *guard) arm() error {
	if g == nil {
		return nil
	}
	defer g.lock()()
	g.wanted = true
	if g.armed {
		return nil
	}
	return g.adjust()
}

// want has the service guarded once it has no keeper any more.
func (g *guard) want() {
	if g == nil {
		return
	}
	defer g.lock()()
	g.wanted = true
}

// adjust brings the Guardian to the instant. Called under turn.
func (g *guard) adjust() error {
	at, guarded, lost := g.timer.guardAt()
	if lost && g.armed && g.at.Before(at) {
		at = g.at // a loss makes the instant earlier, and never later
	}
	switch {
	case g.over.Load() || !g.wanted:
		return nil
	case !guarded && g.armed:
		g.armed = false
		return g.guardian.Disarm()
	case guarded && !g.armed:
		if err := g.guardian.Arm(at); err != nil {
			return err
		}
		g.armed = true
	case guarded && at != g.at:
		if err := g.guardian.Extend(at); err != nil {
			return err
		}
	}
	g.at = at
	return nil
}

// run moves the instant after each renewal and with the fence time. It is a goroutine
// that ends with disarm or leave.
func (g *guard) run() {
	for {
		renewed := g.timer.renewed()
		g.follow()
		select {
		case <-renewed:
		case <-g.changed:
		case <-g.end:
			return
		}
	}
}

func (g *guard) follow() {
	defer g.lock()()
	err := g.adjust()
	if err == nil || g.fired.Load() {
		return
	}
	if f, ok := g.guardian.(interface{ Fired() bool }); ok && f.Fired() {
		g.fired.Store(true)
		g.timer.log.Error("Guardian has stopped the service: the deadline did not reach it in time", "error", err)
		g.timer.notify()
	} else {
		g.timer.log.Error("Guardian cannot be reached: it may stop the service at its last deadline, or not at all", "error", err)
	}
}

// hasFired reports whether the Guardian has stopped the service.
func (g *guard) hasFired() bool { return g != nil && g.fired.Load() }

// update has the instant computed again.
func (g *guard) update() {
	if g == nil {
		return
	}
	select {
	case g.changed <- struct{}{}:
	default:
	}
}

// disarm ends the guard of a service that has stopped, or that is left to its keeper.
func (g *guard) disarm() {
	if g == nil || g.over.Swap(true) {
		return
	}
	close(g.end)
	defer g.lock()()
	if !g.armed {
		return
	}
	if err := g.guardian.Disarm(); err != nil {
		g.timer.log.Error("Guardian cannot be disarmed: it may stop the service", "error", err)
	}
}

// leave leaves the Guardian armed at its last instant, because the service was not
// stopped. It does not wait for a call of the Guardian.
func (g *guard) leave() {
	if g != nil && !g.over.Swap(true) {
		close(g.end)
	}
}
