package elector

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/cluster"
)

// callback calls a method of the Service in a goroutine of its own, after the one
// before has returned (E8). then is run by the loop.
func (e *Elector) callback(name string, call func() error, then func(error)) {
	before, done := e.loop.last, make(chan struct{})
	e.loop.last = done
	e.tasks.Go(func() { // ends with the callback
		defer close(done)
		if before != nil {
			<-before
		}
		protect(name, call, func(err error) { e.post(func() { then(err) }) })
	})
}

// arm starts the fence timer of a leadership, or of a demotion without one.
func (e *Elector) arm() *fenceTimer {
	l := &e.loop
	t := &fenceTimer{
		timing: l.timing, hold: l.hold, session: l.session, lead: l.lead, service: e.c.Service, exit: e.c.Exit, log: e.log,
		notify: e.notify, changed: make(chan struct{}, 1), entered: make(chan struct{}),
	}
	if e.c.Guardian != nil {
		t.guard = newGuard(e.c.Guardian, t)
		e.tasks.Go(t.guard.run)
	}
	e.timer.Store(t)
	e.tasks.Go(t.run)
	return t
}

// startPromote calls Promote, with the fence timer armed.
func (e *Elector) startPromote() {
	l := &e.loop
	lead := l.lead
	if lead == nil { // otherwise the service was found under a keeper
		lead = newLeadership(e.c.Store, l.hold)
		l.lead = lead
		e.arm() // E7
		e.beginLine()
	}
	l.promote, l.promoteErr, l.adopted = running, nil, false
	l.promoteBy = dcs.Now().Add(l.timing.PromoteTimeout)
	l.approved = false
	l.generation++
	t, least := e.timer.Load(), l.timing.StopTimeout
	e.callback("Promote", func() error { return e.promote(t, lead, least) }, func(err error) {
		if l.promote = done; err != nil {
			l.promote, l.promoteErr = failed, err
		}
	})
}

// promote arms the Guardian and calls Promote, unless the leadership lasts for less than
// least after that (E1): the process may have been stopped meanwhile.
func (e *Elector) promote(t *fenceTimer, lead *Leadership, least time.Duration) error {
	if err := t.guard.arm(); err != nil {
		return fmt.Errorf("the Guardian cannot be armed: %w", err)
	}
	if lead.expire(least) {
		return errors.New("the leadership ended while the Guardian was armed")
	}
	return e.c.Service.Promote(lead.ctx, lead)
}

// startLeading makes the leadership public once Promote has returned.
func (e *Elector) startLeading() {
	l := &e.loop
	l.service, l.failed, l.penalty = servicePrimary, false, 0
	e.dateLine()
	e.roleChanged()
	e.mu.Lock()
	e.leading = l.lead
	e.mu.Unlock()
	e.log.Info("leading", "token", l.lead.Token())
}

// closeLeadership ends the leadership for its users.
func (e *Elector) closeLeadership() {
	if e.loop.lead != nil {
		e.loop.lead.end()
	}
	e.mu.Lock()
	e.leading = nil
	e.mu.Unlock()
}

// startDemote fixes the fence time, ends the leadership, and calls Demote as soon as
// the callback before has returned.
func (e *Elector) startDemote() {
	l := &e.loop
	r := e.reason()
	e.endFollowing()
	at := e.fenceTime(r)
	t := e.timer.Load()
	if t == nil {
		t = e.arm()
	}
	t.begin(r, at)
	e.closeLeadership()
	l.demote = running
	l.generation++
	e.log.Info("demoting", "reason", r.String(), "fenced_in", max(-at.Elapsed(), 0))
	e.callback("Demote", func() error { return e.demote(t, r, at) }, func(err error) {
		if l.demote = done; err != nil {
			l.demote = failed
			e.log.Error("demotion failed", "error", err)
		}
	})
}

// demote calls Demote with a context that ends at the fence time, or when t fires
// before that.
func (e *Elector) demote(t *fenceTimer, r Reason, at dcs.Instant) error {
	if t.fired() {
		return errors.New("the service was fenced first")
	}
	ctx, cancel := context.WithTimeout(context.Background(), -at.Elapsed())
	defer cancel()
	end := make(chan struct{})
	defer close(end)
	go func() { // ends with Demote
		select {
		case <-t.entered:
			cancel()
		case <-end:
		}
	}()
	// A service that was found primary is not guarded yet.
	if err := t.guard.arm(); err != nil {
		e.log.Error("service is demoted without its Guardian", "error", err)
	}
	err := e.c.Service.Demote(ctx, r)
	if err == nil && t.disarm() {
		t.guard.disarm()
	}
	return err
}

// reason returns why the demotion begins.
func (e *Elector) reason() Reason {
	l := &e.loop
	f := e.facts()
	switch {
	case l.lead == nil:
		return Reason{Cause: CauseStart, Err: l.reportErr}
	case f.lost:
		return Reason{Cause: CauseLost, Err: l.lead.term().lost}
	case f.expiring:
		st, _ := l.session.Status()
		return Reason{Cause: CauseExpiring, Err: st.RenewalErr}
	case l.promoteErr != nil:
		return Reason{Cause: CausePromote, Err: l.promoteErr}
	case f.unhealthy && e.timer.Load().guard.hasFired():
		return Reason{Cause: CauseUnhealthy, Err: errors.New("the Guardian has stopped the service")}
	case f.unhealthy:
		return Reason{Cause: CauseUnhealthy}
	case f.handover:
		return Reason{Cause: CauseSwitchover}
	default:
		return Reason{Cause: CauseShutdown}
	}
}

// fenceTime returns when the demotion is fenced (E3).
func (e *Elector) fenceTime(r Reason) dcs.Instant {
	l := &e.loop
	now := dcs.Now()
	if r.Cause == CauseStart || r.Cause == CauseLost {
		return now.Add(l.timing.LostTimeout)
	}
	t, asked := l.lead.term(), now.Add(l.timing.HandoverTimeout)
	at := t.deadline.Add(-l.timing.FenceTimeout)
	if t.kept || r.Cause != CauseExpiring && asked.Before(at) {
		at = asked
	}
	return at
}

// giveBack releases the lock in the background. Nothing is acquired before that is
// done.
func (e *Elector) giveBack() {
	l := &e.loop
	e.dropRetaken()
	h := l.hold
	if h == nil {
		return
	}
	l.lastToken, l.hold, l.early, l.accepted = h.Token(), nil, nil, 0
	publisher, record := l.publisher, e.record()
	announce := l.promoteErr != nil // E9: the others must know before the lock is free
	if announce {
		record.State = cluster.StateFailed
	}
	budget := l.timing.RetryTimeout
	e.begin(taskRelease, func(context.Context) func() {
		ctx, cancel := context.WithTimeout(context.Background(), budget) // it outlives Run's other work
		defer cancel()
		if announce {
			part, cancel := context.WithTimeout(ctx, budget/2)
			defer cancel()
			_, _ = publisher.Publish(part, record) // tried again with the next record
		}
		err := h.Release(ctx)
		return func() {
			if err != nil {
				e.log.Warn("lock is not given back yet", "token", h.Token(), "error", err)
			}
		}
	})
}

// forget gives the lock back and makes the elector ready to follow.
func (e *Elector) forget() {
	l := &e.loop
	e.closeLeadership()
	e.giveBack()
	t := e.timer.Load()
	if l.promoteErr != nil {
		e.penalise()
	}
	if l.demote == done || t != nil && t.outcome() == done {
		l.service = serviceReplica
		e.roleChanged()
	}
	if t != nil {
		if t.lead == nil { // a service that is always found primary keeps no processor busy
			l.reportAt = dcs.Now().Add(min(time.Second, l.timing.LoopWait))
		}
		t.disarm()
		e.timer.Store(nil)
	}
	l.lead, l.decision, l.approved, l.promoteErr, l.unhealthy = nil, nil, false, nil, false
	l.acquire, l.confirm, l.promote, l.demote = none, none, none, none
	l.followed, l.adopted, l.history = "", false, history{}
	e.notify()
}

// penalise keeps a member whose promotion failed from the lock until the others
// could take it (E9).
func (e *Elector) penalise() {
	l := &e.loop
	l.failed = true
	l.penalty = max(l.timing.LoopWait, min(2*l.penalty, l.timing.TTL))
	l.notBefore = dcs.Now().Add(l.penalty)
	e.log.Error("promotion failed", "error", l.promoteErr, "not_again_for", l.penalty)
}

// roleChanged has the service asked again and its record published.
func (e *Elector) roleChanged() {
	l := &e.loop
	l.generation++
	l.report.Role = "" // until it is reported again
	l.reportAt, l.unpublished = dcs.Instant{}, true
}
