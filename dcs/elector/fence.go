package elector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// fenceTimer ends one leadership by force when nothing else has ended it in time.
// It looks at the Hold and at the demotion, and never at the elector's loop, which
// may hang (E7). It is armed before Promote is called.
type fenceTimer struct {
	timing  Timing
	hold    *dcs.Hold    // nil for a service that was found primary
	session *dcs.Session // to abandon; nil if there is none
	lead    *Leadership  // nil without a Hold
	service Service
	exit    func(Reason)
	log     *slog.Logger
	notify  func()        // wakes the loop
	changed chan struct{} // a demotion has begun, or disarm
	entered chan struct{} // closed when it fires

	mu       sync.Mutex
	disarmed bool
	fence    outcome
	err      error       // of Fence
	at       dcs.Instant // E3: the fence time, once a demotion has begun
	begun    bool
	reason   Reason
}

// begin fixes the fence time of the demotion (E3).
func (f *fenceTimer) begin(r Reason, at dcs.Instant) {
	f.mu.Lock()
	f.at, f.begun, f.reason = at, true, r
	f.mu.Unlock()
	f.poke()
}

// disarm reports that the service has stopped. It returns false if Fence was called
// before.
func (f *fenceTimer) disarm() bool {
	f.mu.Lock()
	f.disarmed = f.disarmed || f.fence == none
	ok := f.disarmed
	f.mu.Unlock()
	f.poke()
	return ok
}

func (f *fenceTimer) poke() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// outcome returns how far Fence has come.
func (f *fenceTimer) outcome() outcome {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fence
}

// fired reports whether Fence was called.
func (f *fenceTimer) fired() bool { return f.outcome() != none }

// run waits for the fence time. It is a goroutine that ends with disarm or with
// Fence.
func (f *fenceTimer) run() {
	var stop, last, lost <-chan struct{}
	if f.hold != nil {
		stop, last, lost = f.hold.DoneBefore(f.timing.StopTimeout), f.hold.DoneBefore(f.timing.FenceTimeout), f.hold.Done()
	}
	t := time.NewTimer(0)
	defer t.Stop()
	var lostAt dcs.Instant
	for {
		select {
		case <-stop:
			f.lead.end()
			stop = nil
			f.notify()
		case <-last:
			last = nil
			if f.hold.Err() == nil && f.overslept() {
				f.fire() // renewals failed, and no demotion has begun
				return
			}
		case <-lost:
			lost, lostAt = nil, dcs.Now()
			f.lead.end()
			f.notify()
		case <-f.changed:
		case <-t.C:
		}
		at, known, over := f.due(lostAt)
		switch {
		case over:
			return
		case known && at.Elapsed() >= 0:
			f.fire()
			return
		case known:
			t.Reset(-at.Elapsed())
		}
	}
}

// overslept reports whether no demotion has begun although its time has come.
func (f *fenceTimer) overslept() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.begun && !f.disarmed
}

// due returns the fence time, if there is one. lostAt is when the lock was lost; it
// makes the time of a demotion that has begun earlier, and never later.
func (f *fenceTimer) due(lostAt dcs.Instant) (at dcs.Instant, known, over bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at, known = f.at, f.begun
	if !lostAt.IsZero() {
		if lost := lostAt.Add(f.timing.LostTimeout); !known || lost.Before(at) {
			at, known = lost, true
		}
	}
	return at, known, f.disarmed || f.fence != none
}

// fire calls Fence, once for each demotion (E3). If it fails, or does not return in
// time, the process ends with the lock left to expire.
func (f *fenceTimer) fire() {
	f.mu.Lock()
	if f.disarmed || f.fence != none {
		f.mu.Unlock()
		return
	}
	f.fence = running
	if !f.begun {
		f.reason = Reason{Cause: CauseExpiring, Err: errors.New("the elector's loop hangs: no demotion has begun")}
		if f.hold.Err() != nil {
			f.reason = Reason{Cause: CauseLost, Err: f.hold.Err()}
		}
	}
	r := f.reason
	f.mu.Unlock()
	close(f.entered)
	f.poke() // ends run, where the loop has called fire
	if f.lead != nil {
		f.lead.end()
	}
	f.log.Error("demotion failed or took too long: fencing the service", "reason", r.String())
	f.notify()
	err := f.call(r)
	if err != nil {
		if f.session != nil {
			f.session.Abandon() // E3, E5: no other member leads before the lease expires
		}
		f.log.Error("service could not be fenced: the process ends", "reason", r.String(), "error", err)
		f.exit(r)
	}
	f.mu.Lock()
	if f.fence = done; err != nil {
		f.fence, f.err = failed, err
	}
	f.mu.Unlock()
	f.notify()
}

// call calls Fence and waits for it for half of FenceTimeout.
func (f *fenceTimer) call(r Reason) error {
	fencer, ok := f.service.(Fencer)
	if !ok {
		return errors.New("the Service is no Fencer")
	}
	limit := f.timing.FenceTimeout / 2
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	answer := make(chan error, 1)
	go protect("Fence", func() error { return fencer.Fence(r) }, func(err error) { answer <- err })
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return fmt.Errorf("Fence has not returned within %v", limit)
	}
}
