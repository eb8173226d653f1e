package elector

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/cluster"
)

// namesMember reports whether the keeper in v names this member, and no other member
// has the lock.
func (e *Elector) namesMember(v *cluster.View) bool {
	k := v.Keeper
	return k != nil && k.Name == e.c.Name && k.Instance != "" && k.Token != 0 && (v.Leader == nil || v.Leader.Name == e.c.Name)
}

// ownsKeeper reports whether the keeper in v is this process, or the one whose service
// this process has adopted.
func (e *Elector) ownsKeeper(v *cluster.View) bool {
	k := v.Keeper
	return k != nil && k.Name == e.c.Name && k.Instance != "" && (k.Instance == e.instance || k.Instance == e.loop.adoptedFrom)
}

// keeps reports whether the leadership of this process may outlast its lock by v.
func (e *Elector) keeps(v *cluster.View) bool { return e.namesMember(v) && e.ownsKeeper(v) }

// noteKeeper takes the keeper of a new View for the present leadership.
func (e *Elector) noteKeeper() {
	l := &e.loop
	if k := l.view.Keeper; k == nil || k.Instance != l.adoptedFrom {
		l.adoptedFrom = "" // from now on the process of that instance may write another one
	}
	if l.lead == nil {
		return
	}
	switch kept := e.keeps(l.view); {
	case !kept: // an operator has removed it, or another member has the lock
		l.lead.keep(false)
	case !l.keeperGone && (l.view.Config.Pause || l.adoptedFrom != ""):
		l.lead.keep(true)
	}
	e.timer.Load().poke()
}

// keepKeeper writes the keeper record of a leader in a pause, and removes that of a
// process that leads under its lock without a pause, or that has demoted.
func (e *Elector) keepKeeper() {
	l := &e.loop
	v := l.view
	if v == nil || l.busy[taskKeeper] || !e.due(l.keeperAt) {
		return
	}
	own := e.ownsKeeper(v)
	switch {
	case l.state == Leading && l.hold != nil && l.hold.Valid():
		wanted := v.Config.Pause && !e.c.NoKeeper
		switch current := own && v.Keeper.Instance == e.instance && v.Keeper.Token == l.hold.Token(); {
		case own && (!wanted || l.keeperGone):
			e.removeKeeper()
		case wanted && !current && (v.Keeper == nil || own):
			e.writeKeeper()
		}
	case (l.state == Following || l.state == Starting) && l.lead == nil && own:
		e.removeKeeper() // the service was demoted
	}
}

// writeKeeper stores the record under the guard of the lock, while the cluster is
// paused as it was read. The leadership outlasts its lock once that is confirmed.
func (e *Elector) writeKeeper() {
	l := &e.loop
	v, lead := l.view, l.lead
	record := cluster.Keeper{Name: e.c.Name, Instance: e.instance, Token: lead.Token()}
	l.keeperSent, l.keeperAt = true, dcs.Now().Add(e.retryTime())
	e.begin(taskKeeper, func(ctx context.Context) func() {
		var at dcs.Revision
		txn, err := v.LeaderTxn(lead.Guard(), record)
		if err == nil && len(txn.Then) > 0 {
			txn.If = append(txn.If, v.Unchanged(cluster.ConfigKey)...) // E11
			at, err = e.c.Store.Commit(ctx, txn)
		}
		return func() {
			if err != nil {
				if !errors.Is(err, dcs.ErrConflict) {
					e.log.Warn("keeper record cannot be written", "error", err)
				}
				return
			}
			l.keeperGone, l.keeperAt = false, dcs.Instant{}
			if lead == l.lead && l.state == Leading && (l.view.Revision < at || e.keeps(l.view)) {
				lead.keep(true)
				e.timer.Load().poke()
			}
		}
	})
}

// removeKeeper deletes the record of this process. From the moment before that the
// leadership lasts under its lock only.
func (e *Elector) removeKeeper() {
	l := &e.loop
	v := l.view
	l.keeperGone, l.keeperAt = true, dcs.Now().Add(e.retryTime())
	var cond []dcs.Cond
	var g *guard
	if l.lead != nil {
		l.lead.keep(false)
		t := e.timer.Load()
		t.poke()
		g = t.guard
		cond = append(cond, l.lead.Guard())
	}
	e.begin(taskKeeper, func(ctx context.Context) func() {
		if err := g.arm(); err != nil { // E7: the service is not without both
			e.log.Error("Guardian cannot be armed: the keeper record stays", "error", err)
			return func() {}
		}
		txn, err := v.ForcedTxn(cluster.Remove(cluster.KeeperKey)) // the owner's, also after its lock
		if err == nil && len(txn.Then) > 0 {
			txn.If = append(txn.If, cond...)
			_, err = e.c.Store.Commit(ctx, txn)
		}
		return func() {
			if err != nil && !errors.Is(err, dcs.ErrConflict) {
				e.log.Warn("keeper record cannot be removed", "error", err)
			}
		}
	})
}

// adopt goes on with a service that was found primary under a keeper, without the lock.
func (e *Elector) adopt() {
	l := &e.loop
	k := l.view.Keeper
	l.lead = keptLeadership(e.c.Store, dcs.CreatedAt(e.key, k.Token))
	l.adopted, l.adoptedFrom, l.keeperGone, l.promote = true, k.Instance, false, done
	l.generation++
	e.arm().guard.want() // E7
	e.log.Info("leading under the keeper of an earlier process", "token", k.Token)
}

// leaveRunning leaves the service to its keeper, so that another process can go on
// with it (E12).
func (e *Elector) leaveRunning() {
	e.loop.leftRunning = true
	e.closeLeadership()
	t := e.timer.Load()
	t.disarm()
	e.tasks.Go(t.guard.disarm)
	e.log.Info("the service is left running under its keeper")
}

// mayRetake reports whether a leadership without a Hold may take the lock again.
func (e *Elector) mayRetake(f *facts) bool {
	l := &e.loop
	if l.state != Leading || l.retake != none || f.held || f.lost || !f.session || l.shutdown || l.busy[taskAcquire] || l.busy[taskRelease] {
		return false
	}
	v := l.view
	old := l.hold != nil && v.Leader != nil && v.Leader.Token == l.hold.Token() // E13
	allowed := e.keeps(v)
	if !f.kept {
		// F5, E11. Its own record may be there still, where the removal was cut off.
		allowed = (v.Keeper == nil || e.ownsKeeper(v)) && !v.Config.Pause && v.Failsafe.Contains(e.c.Name)
	}
	return allowed && (v.Leader == nil || old) && e.due(l.retakeAt)
}

// startRetake takes the lock again for a service that is primary (E13), on the
// condition that the keys of the decision are as they were read (E10). It proves the
// Hold before anything depends on it.
func (e *Elector) startRetake() {
	l := &e.loop
	l.retake, l.retakeAt = running, dcs.Now().Add(e.retryTime())
	v, session := l.view, l.session
	e.begin(taskAcquire, func(ctx context.Context) func() {
		h, taken := e.take(ctx, session, v, v.Leader != nil)
		err := taken
		if err == nil {
			_, err = e.prove(ctx, h, v)
		}
		return func() {
			e.noteAttempt(taken)
			e.retook(h, err)
		}
	})
}

func (e *Elector) retook(h *dcs.Hold, err error) {
	l := &e.loop
	l.retaken = h
	if l.lead == nil { // demoted meanwhile
		e.dropRetaken()
		return
	}
	if l.retake = done; err != nil {
		l.retake = failed
		e.log.Info("lock not taken again", "error", err)
	}
}

// useRetaken puts the leadership under the Hold that was taken again.
func (e *Elector) useRetaken() {
	l := &e.loop
	if l.hold != nil {
		l.lastToken = l.hold.Token()
	}
	l.hold, l.retaken, l.retake, l.confirm = l.retaken, nil, none, done // E1: prove has confirmed it
	l.early = l.hold.DoneBefore(l.timing.StopTimeout)
	l.lead.use(l.hold)
	e.timer.Load().use(l.hold, l.session, l.timing)
	l.keeperAt = dcs.Instant{}
	e.log.Info("lock taken again", "token", l.hold.Token())
}

// dropRetaken gives a lock back that was taken again and is not used.
func (e *Elector) dropRetaken() {
	l := &e.loop
	h := l.retaken
	l.retake, l.retaken = none, nil
	if h == nil {
		return
	}
	budget := l.timing.RetryTimeout
	release := func(context.Context) func() {
		ctx, cancel := context.WithTimeout(context.Background(), budget) // it outlives Run's other work
		defer cancel()
		_ = h.Release(ctx) // otherwise the session goes on with it
		return func() {}
	}
	if !e.begin(taskRelease, release) {
		e.tasks.Go(func() { release(context.Background()) })
	}
}

// finishKeeper removes the record of a process whose service was demoted at its end.
func (e *Elector) finishKeeper() {
	l := &e.loop
	if !l.keeperSent && l.adoptedFrom == "" || l.leftRunning {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), l.timing.RetryTimeout)
	defer cancel()
	v, err := cluster.Read(ctx, e.c.Store, e.c.Scope)
	if err == nil && e.ownsKeeper(v) {
		var txn dcs.Txn
		if txn, err = v.ForcedTxn(cluster.Remove(cluster.KeeperKey)); err == nil {
			_, err = e.c.Store.Commit(ctx, txn)
		}
	}
	if err != nil {
		e.log.Error("keeper record may be left behind: no member takes the lock until an operator removes it", "error", err)
	}
}

// RemoveKeeper removes the keeper record that names the given member. It is a command
// of an operator for a member that does not come back: its process or its machine has
// died in a pause.
//
// The service of that member may be primary still. Its process notices the removal
// only when it reaches the store, and another member may lead at once. Stop the
// service, or cut it off, before.
//
// ErrRefused reports that nothing has changed: the record names another member, or the
// member has the lock, so that it is alive and removes the record itself once the
// cluster is resumed. RemoveKeeper returns nil if there is no record. member is empty
// for a record that is not readable.
func (e *Elector) RemoveKeeper(ctx context.Context, member string) error {
	const op = "removal of the keeper"
	v, err := cluster.Read(ctx, e.c.Store, e.c.Scope)
	if err != nil {
		return fmt.Errorf("elector: %s of %q: %w", op, e.c.Scope, err)
	}
	switch k := v.Keeper; {
	case k == nil:
		return nil
	case k.Name != member:
		return e.refused(op, fmt.Errorf("the record names member %q, not %q", k.Name, member))
	case v.Leader != nil && v.Leader.Name == member:
		return e.refused(op, fmt.Errorf("member %q has the lock and removes the record itself: resume the cluster", member))
	}
	return e.force(ctx, op, v, cluster.Remove(cluster.KeeperKey))
}

// force commits a record of the leader without its guard, as it was read in v.
func (e *Elector) force(ctx context.Context, op string, v *cluster.View, r cluster.Record) error {
	txn, err := v.ForcedTxn(r)
	if err != nil {
		return e.refused(op, err)
	}
	txn.If = append(txn.If, v.Unchanged(cluster.LeaderKey)...)
	switch _, err = e.c.Store.Commit(ctx, txn); {
	case err == nil:
		e.log.Warn("key of the leader was changed by force", "command", op)
		return nil
	case errors.Is(err, dcs.ErrConflict):
		return e.refused(op, errors.New("the cluster has changed meanwhile"))
	}
	return fmt.Errorf("elector: %s of %q: %w", op, e.c.Scope, err)
}
