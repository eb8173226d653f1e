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

// decisionKeys are the keys on which an acquisition is decided (E10).
var decisionKeys = []string{cluster.ConfigKey, cluster.FailsafeKey, cluster.FailoverKey, cluster.KeeperKey}

// stands reports whether the keys of the decision are unchanged (E10).
func (e *Elector) stands() bool {
	l := &e.loop
	return l.decision != nil && sameDecision(l.decision, l.view)
}

func sameDecision(a, b *cluster.View) bool {
	return slices.Equal(a.Unchanged(decisionKeys...), b.Unchanged(decisionKeys...))
}

// considerLeading decides whether to take the lock, where it is free.
func (e *Elector) considerLeading() {
	l := &e.loop
	if l.state != Following || l.view == nil || l.approved || l.shutdown || e.facts().callback() ||
		l.busy[taskDecide] || l.busy[taskRelease] || l.busy[taskAcquire] {
		return
	}
	if !e.free(l.view) {
		l.refusal = nil
		return
	}
	e.noteFree()
	if err := e.obstacle(); err != nil {
		e.refuse(err)
		return
	}
	if !e.due(l.decideAt) || l.busy[taskReport] {
		return
	}
	l.decideAt = dcs.Now().Add(l.timing.LoopWait)
	v, self := l.view, e.record()
	e.begin(taskDecide, func(ctx context.Context) func() {
		err := e.decide(ctx, v, self)
		return func() { e.decided(v, err) }
	})
}

// obstacle returns the reason why the lock must not be taken that is known without
// asking.
func (e *Elector) obstacle() error {
	l := &e.loop
	v := l.view
	own, published := v.Member(e.c.Name)
	switch {
	case v.Config.Pause: // E11
		return errors.New("the cluster is paused")
	case v.Keeper != nil:
		return fmt.Errorf("key %q names member %q, which may lead without the lock: that process removes the key, or an operator must", cluster.KeeperKey, v.Keeper.Name)
	case !published:
		return errors.New("the record of this member is not published yet")
	case own.Instance != e.instance:
		return fmt.Errorf("another process, instance %q, has published the record of this member: each process needs a name of its own", own.Instance)
	case l.reportErr != nil:
		return fmt.Errorf("the service makes no report: %w", l.reportErr)
	case l.failed && !e.due(l.notBefore): // E9
		return errors.New("the last promotion failed: the other members come first")
	}
	if err := e.failsafeObstacle(); err != nil {
		return err
	}
	if f := v.Failover; f != nil && (f.Token != 0 || f.At.IsZero()) && !meant(f, e.c.Name) && !e.due(l.freeSince.Add(l.timing.LoopWait)) { // E15
		return fmt.Errorf("a switchover from %q to %q is under way", f.Leader, f.Candidate)
	}
	return nil
}

// meant reports whether the request f allows the member called name to lead.
func meant(f *cluster.Failover, name string) bool {
	if f.Candidate != "" {
		return f.Candidate == name
	}
	return f.Leader != name
}

// decide asks the other members, the service and the policy (E14).
func (e *Elector) decide(ctx context.Context, v *cluster.View, self cluster.Member) (err error) {
	if url, listed := v.Failsafe.Members[e.c.Name]; listed && e.c.Failsafe != nil {
		if err := e.reachesItself(ctx, url); err != nil { // F4
			return err
		}
	}
	s := e.examine(ctx, v, self)
	protect("Policy", func() error {
		if c, ok := e.c.Service.(Candidate); ok {
			ctx, cancel := context.WithTimeout(ctx, e.c.Timing.WithDefaults().RetryTimeout)
			defer cancel()
			if err := c.Eligible(ctx, v); err != nil {
				return fmt.Errorf("the service is not eligible: %w", err)
			}
		}
		return e.c.Policy(s)
	}, func(result error) { err = result })
	return err
}

func (e *Elector) decided(v *cluster.View, err error) {
	l := &e.loop
	if err != nil {
		e.refuse(err)
		return
	}
	if l.state != Following || !e.free(l.view) || !sameDecision(v, l.view) {
		return // a newer View is decided on
	}
	if err := e.failsafeObstacle(); err != nil { // F3: a leader was accepted meanwhile
		e.refuse(err)
		return
	}
	l.decision, l.approved, l.refusal = l.view, true, nil
}

// refuse keeps the reason why this member does not take the lock, and logs each once.
func (e *Elector) refuse(err error) {
	l := &e.loop
	err = brief(err)
	if l.refusal == nil || l.refusal.Error() != err.Error() {
		e.log.Warn("not taking the lock", "reason", err)
	}
	l.refusal = err
}

// startAcquire takes the lock on the condition that the keys of the decision are
// unchanged (E10), then proves it and reads the keys again.
func (e *Elector) startAcquire() {
	l := &e.loop
	l.acquire, l.confirm = running, none
	v, session, old := l.decision, l.session, e.own(l.decision)
	e.begin(taskAcquire, func(ctx context.Context) func() {
		h, err := e.take(ctx, session, v, old)
		return func() { e.acquired(h, err) }
	})
}

// take takes the lock with session on the condition that the keys of the decision are
// as they are in v (E10). old is whether the lock in v is an earlier one of this
// process, which is deleted first (E13).
func (e *Elector) take(ctx context.Context, session *dcs.Session, v *cluster.View, old bool) (*dcs.Hold, error) {
	if old {
		_, err := e.c.Store.Commit(ctx, dcs.Txn{If: []dcs.Cond{dcs.CreatedAt(e.key, v.Leader.Token)}, Then: []dcs.Write{dcs.Delete(e.key)}})
		if err != nil && !errors.Is(err, dcs.ErrConflict) {
			return nil, err
		}
	}
	return session.TryAcquire(ctx, e.key, []byte(e.c.Name), v.Unchanged(decisionKeys...)...) // E10
}

// prove confirms h (E1) and reads the keys of the decision v again (E10).
func (e *Elector) prove(ctx context.Context, h *dcs.Hold, v *cluster.View) (fresh *cluster.View, err error) {
	if err = h.Confirm(ctx); err != nil { // E1
		return nil, err
	}
	if fresh, err = cluster.Read(ctx, e.c.Store, e.c.Scope); err == nil && !sameDecision(v, fresh) { // E10
		err = errors.New("the configuration or a request has changed since the decision")
	}
	return fresh, err
}

// noteAttempt notes whether an acquisition may still take the lock (F3).
func (e *Elector) noteAttempt(err error) {
	l := &e.loop
	switch {
	case errors.Is(err, dcs.ErrAmbiguous):
		l.fs.unclear = l.session
	case err == nil, errors.Is(err, dcs.ErrConflict): // any other error may come from an attempt that was not sent
		l.fs.unclear = nil
	}
}

func (e *Elector) acquired(h *dcs.Hold, err error) {
	l := &e.loop
	e.noteAttempt(err)
	if err != nil {
		l.acquire = failed
		l.decideAt = dcs.Now().Add(min(time.Second, l.timing.LoopWait))
		e.log.Info("lock not taken", "error", err)
		return
	}
	l.acquire, l.confirm, l.hold = done, running, h
	l.early = h.DoneBefore(l.timing.StopTimeout)
	v := l.decision
	e.begin(taskAcquire, func(ctx context.Context) func() {
		fresh, err := e.prove(ctx, h, v)
		return func() { e.confirmed(fresh, err) }
	})
}

func (e *Elector) confirmed(fresh *cluster.View, err error) {
	l := &e.loop
	if l.confirm != running {
		return // the lock was given back meanwhile
	}
	if fresh != nil {
		e.takeView(fresh)
	}
	if l.confirm = done; err != nil {
		l.confirm = failed
		e.log.Warn("lock taken and not confirmed", "error", err)
	}
}
