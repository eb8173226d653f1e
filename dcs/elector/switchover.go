package elector

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/cluster"
)

// ErrRefused reports that a request was refused and that nothing has changed.
var ErrRefused = errors.New("refused")

// ErrNoSwitchover reports that no switchover is stored. It comes with [ErrRefused].
var ErrNoSwitchover = errors.New("no switchover is stored")

// refused returns err as a refusal of op.
func (e *Elector) refused(op string, err error) error {
	return fmt.Errorf("elector: %s of %q: %w: %w", op, e.c.Scope, ErrRefused, brief(err))
}

// Request asks for another leader.
type Request struct {
	// Candidate is the member that is to lead. Empty means the best one.
	Candidate string
	// At is when; zero means now.
	At time.Time
}

// Switchover hands the leadership over to another member. It must be called on the
// elector that leads.
//
// The request is judged before anything stops. ErrRefused reports that nothing has
// changed: this member does not lead, the cluster is paused, a switchover is under
// way, At is in the past, or the candidate is unknown, unhealthy, not verified or
// too far behind (E15).
//
// Switchover returns nil when the candidate leads and has published that its service
// is primary. Another error reports that another member leads, or that the outcome
// is not known when ctx ends. A request with an At in the future is stored, and
// Switchover returns nil at once; it is judged again at that time, by the member that
// leads then, and dropped if that is another one.
func (e *Elector) Switchover(ctx context.Context, r Request) error {
	const op = "switchover"
	lead := e.Leading()
	if lead == nil {
		return e.refused(op, fmt.Errorf("member %q does not lead: ask %q", e.c.Name, e.Status().Leader))
	}
	if !r.At.IsZero() && !r.At.After(wallClock()) {
		return e.refused(op, fmt.Errorf("the time %v is in the past", r.At.Format(time.RFC3339)))
	}
	v, err := cluster.Read(ctx, e.c.Store, e.c.Scope)
	if err != nil {
		return e.refused(op, err)
	}
	if f := v.Failover; f != nil && f.Token != 0 {
		return e.refused(op, fmt.Errorf("a switchover to %q is under way", f.Candidate))
	}
	f, err := e.judge(ctx, v, cluster.Failover{Leader: e.c.Name, Candidate: r.Candidate, At: r.At})
	if err != nil {
		return e.refused(op, err)
	}
	if !r.At.IsZero() {
		f.Token = 0
	}
	if err := e.request(ctx, v, lead, f); err != nil {
		if errors.Is(err, dcs.ErrAmbiguous) {
			return fmt.Errorf("elector: switchover of %q to %q: the outcome is not known: %w", e.c.Scope, f.Candidate, err)
		}
		return e.refused(op, err)
	}
	if f.Token == 0 {
		return nil
	}
	return e.awaitLeader(ctx, f)
}

// CancelSwitchover clears a switchover that is stored and not accepted: one that is
// scheduled, or one that a tool has written and the leader has not judged yet. Any member
// may be asked.
//
// ErrRefused reports that nothing has changed: the leader has accepted the switchover, or
// none is stored ([ErrNoSwitchover]). Of an acceptance and a cancellation at the same time
// exactly one succeeds.
func (e *Elector) CancelSwitchover(ctx context.Context) error {
	return e.changeTree(ctx, "cancellation of the switchover", func(v *cluster.View) (dcs.Txn, error) {
		switch f := v.Failover; {
		case f != nil && f.Token != 0: // E15
			return dcs.Txn{}, fmt.Errorf("the leader %q has accepted the switchover to %q", f.Leader, f.Candidate)
		case f == nil && v.Problem(cluster.FailoverKey) == nil:
			return dcs.Txn{}, ErrNoSwitchover
		}
		return v.Txn(cluster.ClearFailover{}) // on the condition that it was not accepted meanwhile
	})
}

// judge returns the request f as this leader would accept it, or the reason against
// it (E15).
func (e *Elector) judge(ctx context.Context, v *cluster.View, f cluster.Failover) (cluster.Failover, error) {
	lead := e.Leading()
	if lead == nil {
		return f, fmt.Errorf("member %q does not lead any more", e.c.Name)
	}
	if v.Config.Pause { // E11
		return f, errors.New("the cluster is paused: no member would take the lock")
	}
	s := e.examine(ctx, v, e.Status().Member)
	if f.Candidate == "" {
		name, err := s.best()
		if err != nil {
			return f, err
		}
		f.Candidate = name
	} else if err := s.candidate(f.Candidate); err != nil {
		return f, err
	}
	f.Leader, f.Token = e.c.Name, lead.Token()
	return f, nil
}

// request stores f, on the condition that this member leads and that the cluster was
// not paused meanwhile (E11).
func (e *Elector) request(ctx context.Context, v *cluster.View, lead *Leadership, f cluster.Failover) error {
	txn, err := v.LeaderTxn(lead.Guard(), f)
	if err != nil {
		return err
	}
	txn.If = append(txn.If, v.Unchanged(cluster.ConfigKey)...) // E11
	if _, err := e.c.Store.Commit(ctx, txn); err != nil {
		return err
	}
	if f.Token != 0 {
		e.post(func() { e.loop.accepted = f.Token })
	}
	return nil
}

// awaitLeader waits until the candidate of f leads.
func (e *Elector) awaitLeader(ctx context.Context, f cluster.Failover) error {
	fail := func(err error) error {
		return fmt.Errorf("elector: switchover of %q to %q: %w", e.c.Scope, f.Candidate, err)
	}
	for {
		changed, v := e.snapshot()
		// A store that was rebuilt meanwhile has smaller tokens.
		if v != nil && v.Leader != nil && v.Leader.Token != f.Token && v.Revision >= f.Token {
			if v.Leader.Name != f.Candidate {
				return fail(fmt.Errorf("member %q has taken the lock", v.Leader.Name))
			}
			if m, ok := v.Member(f.Candidate); ok && m.Primary() {
				return nil
			}
		}
		select {
		case <-changed:
		case <-e.stopped:
			return fail(errors.New("the elector has stopped: the outcome is not known"))
		case <-ctx.Done():
			return fail(fmt.Errorf("the outcome is not known: %w", ctx.Err()))
		}
	}
}

// keepTree keeps the keys of the leader.
func (e *Elector) keepTree() {
	l := &e.loop
	if l.state != Leading || l.view == nil || l.hold == nil || !l.hold.Valid() {
		return
	}
	e.keepHistory()
	if f := l.view.Failover; f != nil && f.Token != l.hold.Token() {
		e.considerRequest(*f)
	}
	if !l.view.Stored(cluster.ConfigKey) && e.due(l.configAt) { // tools of Patroni fail without one
		l.configAt = dcs.Now().Add(l.timing.LoopWait)
		t := e.c.Timing.Timing.WithDefaults()
		e.write(taskConfig, cluster.Config{TTL: t.TTL, LoopWait: t.LoopWait, RetryTimeout: t.RetryTimeout})
	}
	if p := l.report.Position; p > 0 && p != l.view.Status.Position && e.due(l.statusAt) {
		l.statusAt = dcs.Now().Add(l.timing.LoopWait)
		s := l.view.Status
		s.Position = p
		e.write(taskStatus, s)
	}
}

// write writes a record of the leader in the background. A conflict is left to the
// next View.
func (e *Elector) write(kind task, r cluster.Record) {
	e.commit(kind, r, func(err error) {
		if err != nil && !errors.Is(err, dcs.ErrConflict) {
			e.log.Warn("key of the leader cannot be written", "key", string(kind), "error", err)
		}
	})
}

// commit writes a record of the leader in the background, under the guard of the lock
// and as it was read in the present View. The loop passes the outcome to then.
func (e *Elector) commit(kind task, r cluster.Record, then func(error)) {
	v, lead := e.loop.view, e.loop.lead
	e.begin(kind, func(ctx context.Context) func() {
		txn, err := v.LeaderTxn(lead.Guard(), r)
		if err == nil && len(txn.Then) > 0 {
			_, err = e.c.Store.Commit(ctx, txn)
		}
		return func() { then(err) }
	})
}

// considerRequest judges a request that is stored in the tree, as an operator writes
// it, and accepts it or clears it (E15).
func (e *Elector) considerRequest(f cluster.Failover) {
	l := &e.loop
	if l.busy[taskFailover] || !e.due(l.judgeAt) {
		return
	}
	l.judgeAt = dcs.Now().Add(min(time.Second, l.timing.LoopWait))
	if why := e.outdated(f); why != nil {
		e.drop(f, why)
		return
	}
	// E11: a request is judged when the pause ends.
	if l.view.Config.Pause || !f.At.IsZero() && !e.due(dcs.Now().Add(f.At.Sub(wallClock()))) {
		return
	}
	v, lead := l.view, l.lead
	e.begin(taskFailover, func(ctx context.Context) func() {
		accepted, err := e.judge(ctx, v, f)
		if err != nil {
			return func() {
				// Otherwise the next leader judges it, or another request came after it.
				if lead == l.lead && l.state == Leading && slices.Equal(v.Unchanged(cluster.FailoverKey), l.view.Unchanged(cluster.FailoverKey)) {
					e.drop(f, err)
				}
			}
		}
		err = e.request(ctx, v, lead, accepted)
		return func() {
			if err != nil && !errors.Is(err, dcs.ErrConflict) {
				e.log.Warn("request for another leader cannot be accepted", "error", err)
			}
		}
	})
}

// outdated returns the reason why the request f is none to this leader.
func (e *Elector) outdated(f cluster.Failover) error {
	switch late := wallClock().Sub(f.At); {
	case f.Token != 0:
		return errors.New("an earlier leader has accepted it")
	case f.Leader != "" && f.Leader != e.c.Name:
		return fmt.Errorf("member %q does not lead", f.Leader)
	case !f.At.IsZero() && late > e.loop.timing.TTL && !e.loop.view.Config.Pause:
		return fmt.Errorf("the time %v has passed", f.At.Format(time.RFC3339))
	}
	return nil
}

// drop clears the request f.
func (e *Elector) drop(f cluster.Failover, why error) {
	e.log.Info("request for another leader is cleared", "leader", f.Leader, "candidate", f.Candidate, "reason", brief(why))
	e.write(taskFailover, cluster.ClearFailover{})
}

// wallClock returns the time of day, by which an operator schedules a switchover and
// reads the history. Nothing else is decided by it.
func wallClock() time.Time {
	return time.Now() //nolint:forbidigo // schedules and the history have times of day
}
