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
// It looks at the Leadership, which lasts under a Hold or a keeper, and at the
// demotion, and never at the elector's loop, which may hang (E7). It is armed before
// Promote is called.
type fenceTimer struct {
	lead    *Leadership // nil for a service that was found primary
	service Service
	exit    func(Reason)
	log     *slog.Logger
	notify  func()        // wakes the loop
	changed chan struct{} // a demotion has begun, disarm, or another term
	entered chan struct{} // closed when it fires
	guard   *guard        // nil without a Guardian

	mu       sync.Mutex
	timing   Timing
	hold     *dcs.Hold    // of the leadership, for its signals; nil if there is none
	session  *dcs.Session // to abandon; nil if there is none
	disarmed bool
	fence    outcome
	err      error       // of Fence
	at       dcs.Instant // E3: the fence time, once a demotion has begun
	begun    bool
	reason   Reason
	lostAt   dcs.Instant // when the leadership was found lost
}

// begin fixes the fence time of the demotion (E3).
func (f *fenceTimer) begin(r Reason, at dcs.Instant) {
	f.mu.Lock()
	f.at, f.begun, f.reason = at, true, r
	f.mu.Unlock()
	f.poke()
}

// use puts the timer on another Hold of the same leadership.
func (f *fenceTimer) use(h *dcs.Hold, s *dcs.Session, t Timing) {
	f.mu.Lock()
	f.hold, f.session, f.timing = h, s, t
	f.mu.Unlock()
	f.poke()
}

// disarm reports that the service has stopped, or that it is left to its keeper. It
// returns false if Fence was called before.
func (f *fenceTimer) disarm() bool {
	f.mu.Lock()
	f.disarmed = f.disarmed || f.fence == none
	ok := f.disarmed
	f.mu.Unlock()
	f.poke()
	return ok
}

func (f *fenceTimer) poke() {
	f.guard.update()
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
	var s signals
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		f.subscribe(&s)
		select {
		case <-s.stop:
			s.stop = nil
		case <-s.last:
			s.last = nil
		case <-s.lost:
			s.lost = nil
		case <-f.changed:
		case <-t.C:
		}
		f.guard.update()
		next, fire, over := f.look()
		switch {
		case over:
			return
		case fire:
			f.fire()
			return
		case !next.IsZero():
			t.Reset(-next.Elapsed())
		}
	}
}

// signals are the channels of a Hold that the timer waits for. They are exact where
// the machine was suspended. A channel that has closed stays closed although the
// leadership may go on; from then on its moment is that of the timer.
type signals struct {
	hold             *dcs.Hold
	stop, last, lost <-chan struct{}
}

// subscribe takes the channels of another Hold.
func (f *fenceTimer) subscribe(s *signals) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if h := f.hold; s.hold != h {
		*s = signals{hold: h, stop: h.DoneBefore(f.timing.StopTimeout), last: h.DoneBefore(f.timing.FenceTimeout), lost: h.Done()}
	}
}

// look reports whether Fence is due, and otherwise when to look again; the zero Instant
// means not before a signal. It ends the leadership for its users when a demotion must
// begin.
func (f *fenceTimer) look() (next dcs.Instant, fire, over bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.disarmed || f.fence != none {
		return next, false, true
	}
	if f.begun {
		next = f.at
	}
	if f.lead != nil {
		ended := f.lead.expire(f.timing.StopTimeout)
		if ended {
			f.notify()
		}
		switch t := f.lead.term(); {
		case t.lost != nil:
			next = f.lostBy(next)
		case t.kept:
		case f.begun:
			if at := t.deadline.Add(-f.timing.FenceTimeout); at.Before(next) {
				next = at // E3: the deadline has moved back
			}
		default:
			next = t.deadline.Add(-f.timing.FenceTimeout) // renewals fail, and no demotion begins
			if !ended {
				return t.deadline.Add(-f.timing.StopTimeout), false, false
			}
		}
	}
	return next, !next.IsZero() && next.Elapsed() >= 0, false
}

// lostBy returns the fence time of a leadership that is lost. A loss makes the time of
// a demotion that has begun earlier, and nothing makes it later (E3).
func (f *fenceTimer) lostBy(at dcs.Instant) dcs.Instant {
	if f.lostAt.IsZero() {
		f.lostAt = dcs.Now()
	}
	if lost := f.lostAt.Add(f.timing.LostTimeout); !f.begun || lost.Before(at) {
		return lost
	}
	return at
}

// guardAt returns when the Guardian stops the service: half of FenceTimeout after the
// fence time, and as long before the deadline ([Table.Guardian]). It reports whether the
// service is guarded, which it is not under a keeper, and whether the leadership is lost.
func (f *fenceTimer) guardAt() (at dcs.Instant, guarded, lost bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at = f.at
	if f.lead != nil {
		switch t := f.lead.term(); {
		case t.lost != nil:
			at, lost = f.lostBy(at), true
		case t.kept && !f.begun:
			return at, false, false
		case t.kept:
		default:
			if d := t.deadline.Add(-f.timing.FenceTimeout); !f.begun || d.Before(at) {
				at = d
			}
		}
	}
	return at.Add(f.timing.FenceTimeout / 2), !at.IsZero(), lost
}

// renewed returns a channel that is closed when the deadline may have moved, nil
// without a session.
func (f *fenceTimer) renewed() <-chan struct{} {
	f.mu.Lock()
	s := f.session
	f.mu.Unlock()
	if s == nil {
		return nil
	}
	_, changed := s.Status()
	return changed
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
		if t := f.lead.term(); t.lost != nil {
			f.reason = Reason{Cause: CauseLost, Err: t.lost}
		}
	}
	r, limit := f.reason, f.timing.FenceTimeout/2
	f.mu.Unlock()
	close(f.entered)
	f.poke() // ends run, where the loop has called fire
	if f.lead != nil {
		f.lead.end()
	}
	f.log.Error("demotion failed or took too long: fencing the service", "reason", r.String())
	f.notify()
	err := f.call(r, limit)
	f.mu.Lock()
	session := f.session
	f.mu.Unlock()
	if err != nil {
		if session != nil {
			session.Abandon() // E3, E5: no other member leads before the lease expires
		}
		f.log.Error("service could not be fenced: the process ends", "reason", r.String(), "error", err)
		f.guard.leave()
		f.exit(r)
	} else {
		f.guard.disarm()
	}
	f.mu.Lock()
	if f.fence = done; err != nil {
		f.fence, f.err = failed, err
	}
	f.mu.Unlock()
	f.notify()
}

// call calls Fence and waits for it for limit.
func (f *fenceTimer) call(r Reason, limit time.Duration) error {
	fencer, ok := f.service.(Fencer)
	if !ok {
		return errors.New("the Service is no Fencer")
	}
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
