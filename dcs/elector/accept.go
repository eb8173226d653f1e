package elector

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/cluster"
)

// AcceptFailsafe answers the question of a leader in failsafe mode. It waits for the
// elector's loop, which judges the question, and returns an error if that has not
// answered when ctx ends. A member that accepts does not take the lock for the leader's
// TTL or its own, whichever is longer.
func (e *Elector) AcceptFailsafe(ctx context.Context, r FailsafeRequest) (FailsafeAnswer, error) {
	answer := make(chan FailsafeAnswer, 1)
	e.post(func() {
		a := FailsafeAnswer{Scope: e.c.Scope, Name: e.c.Name, Instance: e.instance}
		if err := e.judgeLeader(r); err != nil {
			a.Reason = brief(err).Error()
		} else {
			a.Accepted = true
			e.accept(r)
		}
		answer <- a
	})
	select {
	case a := <-answer:
		return a, nil
	case <-e.stopped:
		return FailsafeAnswer{}, errors.New("the elector has stopped")
	case <-ctx.Done():
		return FailsafeAnswer{}, fmt.Errorf("the elector has not answered: %w", ctx.Err())
	}
}

// judgeLeader returns the reason why this member must not accept r (F3).
func (e *Elector) judgeLeader(r FailsafeRequest) error {
	l := &e.loop
	switch fs := &l.fs; {
	case r.Scope != e.c.Scope:
		return fmt.Errorf("this is a member of cluster %q, not %q", e.c.Scope, r.Scope)
	case r.Member != e.c.Name:
		return fmt.Errorf("this is member %q, not %q", e.c.Name, r.Member)
	case r.Name == e.c.Name:
		return fmt.Errorf("the question is in the name of this member %q", r.Name)
	case cluster.CheckName(r.Name) != nil || r.Instance == "" || r.Token == 0 || r.TTL <= 0 || r.TTL > maxFailsafeTTL:
		return fmt.Errorf("name %q, instance %q, token %d and ttl %v must be those of a leader", r.Name, r.Instance, r.Token, r.TTL)
	case e.c.Failsafe == nil:
		return errors.New("this member takes no part in failsafe mode")
	case l.shutdown:
		return errors.New("this member is shutting down")
	case l.state != Starting && l.state != Following:
		return fmt.Errorf("this member is in the state %v", l.state)
	case l.service == servicePrimary:
		return errors.New("the service of this member is primary")
	case l.approved || l.acquire != none || l.busy[taskAcquire] || fs.unclear != nil && fs.unclear.Err() == nil:
		return errors.New("this member takes the lock")
	case fs.seenName != r.Name && fs.seen > r.Token:
		return fmt.Errorf("member %q has led since, with token %d", fs.seenName, fs.seen)
	}
	return nil
}

// maxFailsafeTTL bounds the time for which a question can block a member.
const maxFailsafeTTL = time.Hour

// accept blocks this member from the lock (F3, P23).
func (e *Elector) accept(r FailsafeRequest) {
	l := &e.loop
	e.noteToken(r.Name, r.Token)
	ttl := max(r.TTL, l.timing.TTL)
	if l.view != nil {
		ttl = max(ttl, l.view.Failsafe.TTL)
	}
	if until := dcs.Now().Add(ttl); l.fs.until.Before(until) {
		l.fs.by, l.fs.until = r.Name, until
	}
}

// failsafeObstacle returns the reason why failsafe mode keeps this member from the
// lock (F4, P23). It does not depend on the configuration.
func (e *Elector) failsafeObstacle() error {
	l := &e.loop
	list := l.view.Failsafe
	if !l.fs.until.IsZero() && !e.due(l.fs.until) {
		return fmt.Errorf("this member has accepted that %q leads without the lock, until %v from now", l.fs.by, (-l.fs.until.Elapsed()).Round(time.Second))
	}
	switch {
	case list.Empty():
		return nil
	case e.c.Failsafe == nil:
		return fmt.Errorf("key %q is not empty: a leader may go on without the lock, and this member takes no part in failsafe mode; set Config.Failsafe, or empty the list with the cluster stopped", cluster.FailsafeKey)
	case !list.Contains(e.c.Name):
		return fmt.Errorf("this member is not in the list of key %q: a leader may go on without asking it", cluster.FailsafeKey)
	case !e.due(l.began.Add(max(list.TTL, l.timing.TTL))):
		return fmt.Errorf("this process may have accepted a leader before its start, which was less than %v ago", max(list.TTL, l.timing.TTL))
	case l.fs.reachErr != nil:
		return l.fs.reachErr
	case l.fs.reached.IsZero() || !e.due(l.fs.reached.Add(max(list.TTL, l.timing.TTL))):
		return fmt.Errorf("another process may have accepted a leader in the name of this member, which does not reach itself at its address in key %q for %v yet", cluster.FailsafeKey, max(list.TTL, l.timing.TTL))
	}
	return nil
}

// keepReached finds out once a LoopWait whether this process answers at its address in
// the failsafe list. Another process that did until now may have accepted a leader,
// which lasts for a TTL (F4).
func (e *Elector) keepReached() {
	l := &e.loop
	if l.view == nil || e.c.Failsafe == nil {
		return
	}
	url := l.view.Failsafe.Members[e.c.Name]
	if url != l.fs.url {
		l.fs.url, l.fs.reached, l.fs.reachErr, l.fs.reachAt = url, dcs.Instant{}, nil, dcs.Instant{}
	}
	if url == "" || l.busy[taskReach] || !e.due(l.fs.reachAt) {
		return
	}
	l.fs.reachAt = dcs.Now().Add(l.timing.LoopWait)
	e.begin(taskReach, func(ctx context.Context) func() {
		err := e.reachesItself(ctx, url)
		return func() {
			switch l.fs.reachErr = err; {
			case err != nil || url != l.fs.url:
				l.fs.reached = dcs.Instant{}
			case l.fs.reached.IsZero():
				l.fs.reached = dcs.Now()
			}
		}
	})
}

// reachesItself returns an error unless this process answers at url, which a failsafe
// list has for it (F4). Otherwise another process accepts in its name.
func (e *Elector) reachesItself(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, e.c.Timing.WithDefaults().askTime())
	defer cancel()
	id, err := e.c.Asker.Ask(ctx, url)
	switch {
	case err != nil:
		return fmt.Errorf("this member does not reach itself at its address in key %q: %w", cluster.FailsafeKey, err)
	case id.Scope != e.c.Scope || id.Name != e.c.Name || id.Instance != e.instance:
		return fmt.Errorf("the address of this member in key %q reaches member %q, instance %q", cluster.FailsafeKey, id.Name, id.Instance)
	}
	return nil
}

// EmptyFailsafe empties the failsafe list by force. It is a command of an operator for
// a cluster whose members are not in the list any more, so that none may lead.
//
// A leader that goes on in failsafe mode may still be primary. It notices the command
// only when it reaches the store, and another member may lead at once. Stop every
// service, or cut it off, before.
//
// ErrRefused reports that nothing has changed: a member has the lock. It empties the
// list itself where failsafe_mode is not set. EmptyFailsafe returns nil if the list is
// empty.
func (e *Elector) EmptyFailsafe(ctx context.Context) error {
	const op = "emptying of the failsafe list"
	v, err := cluster.Read(ctx, e.c.Store, e.c.Scope)
	switch {
	case err != nil:
		return fmt.Errorf("elector: %s of %q: %w", op, e.c.Scope, err)
	case v.Failsafe.Empty():
		return nil
	case v.Leader != nil:
		return e.refused(op, fmt.Errorf("member %q has the lock: set failsafe_mode to false, and it empties the list", v.Leader.Name))
	}
	return e.force(ctx, op, v, cluster.Failsafe{})
}
