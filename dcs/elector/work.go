package elector

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/cluster"
)

// work begins all background work that is due.
func (e *Elector) work() {
	e.keepSession()
	e.keepReport()
	e.keepPublished()
	e.keepFollowing()
	e.considerLeading()
	e.keepKeeper()
	e.keepFailsafe()
	e.keepReached()
	e.keepTree()
}

// watch posts each View of the cluster to the loop. It is a goroutine that ends with
// Run.
func (e *Elector) watch() {
	for v, err := range cluster.Watch(e.life, e.c.Store, e.c.Scope) {
		if err == nil {
			e.post(func() { e.takeView(v) })
			continue
		}
		if permanent(err) {
			e.post(func() { e.fail(err) })
			return
		}
		e.log.Warn("cluster cannot be watched", "error", err)
	}
}

// permanent reports whether no repetition of a call helps.
func permanent(err error) bool {
	return errors.Is(err, dcs.ErrInvalid) || errors.Is(err, dcs.ErrClosed)
}

// fail ends Run with err.
func (e *Elector) fail(err error) {
	if l := &e.loop; l.fatal == nil {
		l.fatal = fmt.Errorf("elector: member %q: %w", e.c.Name, err)
		l.shutdown = true
	}
}

// takeView makes v the present View, unless a newer one is known.
func (e *Elector) takeView(v *cluster.View) {
	l := &e.loop
	if l.view != nil && v.Revision < l.view.Revision {
		return
	}
	before := l.view
	if before != nil && v.Problem(cluster.ConfigKey) != nil {
		c := *v
		c.Config = before.Config // the last one that is readable is in force
		v = &c
	}
	l.view, l.decideAt, l.judgeAt = v, dcs.Instant{}, dcs.Instant{}
	e.noteFree()
	if l.state == Following && !e.free(v) {
		l.approved = false
	}
	if before == nil || before.Config.Pause != v.Config.Pause {
		l.unpublished = true
	}
	if before == nil || leaderToken(before) != leaderToken(v) {
		l.reportAt = dcs.Instant{} // decisions need a position from after the change
	}
	e.noteKeeper()
	e.noteFailsafe()
	if f := v.Failover; f != nil && l.hold != nil && f.Token == l.hold.Token() {
		l.accepted = f.Token // E15: also where the answer to its acceptance was lost
	}
}

// noteFree notes since when the lock is free under the present request.
func (e *Elector) noteFree() {
	l := &e.loop
	request := l.view.Unchanged(cluster.FailoverKey)[0].Is
	switch {
	case !e.free(l.view):
		l.freeSince = dcs.Instant{}
	case l.freeSince.IsZero() || l.freeKey != request:
		l.freeSince, l.freeKey = dcs.Now(), request
	}
}

func leaderToken(v *cluster.View) dcs.Revision {
	if v.Leader == nil {
		return 0
	}
	return v.Leader.Token
}

// free reports whether no other member has the lock in v. This member's own earlier
// incarnation is nobody's (E13).
func (e *Elector) free(v *cluster.View) bool { return v.Leader == nil || e.own(v) }

// own reports whether the lock in v is an earlier incarnation of this process.
func (e *Elector) own(v *cluster.View) bool {
	l := &e.loop
	return v.Leader != nil && l.hold == nil && v.Leader.Name == e.c.Name && v.Leader.Token == l.lastToken // E13
}

// keepSession starts a session where there is none.
func (e *Elector) keepSession() {
	l := &e.loop
	if l.state != Starting && l.state != Leading || l.shutdown || l.session != nil && l.session.Err() == nil || !e.due(l.sessionAfter) {
		return
	}
	o := dcs.SessionOptions{Timing: e.c.Timing.Timing, Logger: e.c.Logger, Gate: e.gate} // E7
	e.begin(taskSession, func(ctx context.Context) func() {
		s, err := e.c.Store.NewSession(ctx, o)
		return func() { e.sessionStarted(s, err) }
	})
}

func (e *Elector) sessionStarted(s *dcs.Session, err error) {
	l := &e.loop
	if err != nil {
		l.sessionTries++
		l.sessionAfter = dcs.Now().Add(retryPause(l.sessionTries, l.timing.LoopWait))
		if e.log.Warn("session cannot be started", "error", err); permanent(err) {
			e.fail(err)
		}
		return
	}
	timing := e.c.Timing
	timing.TTL = s.Granted().TTL // E4
	if err := timing.Validate(dcs.Caps{}); err != nil {
		e.fail(err)
	}
	e.setTiming(timing)
	l.session, l.sessionTries, l.unpublished = s, 0, true
	l.publisher = cluster.NewPublisher(s, e.c.Scope, l.timing.LoopWait)
}

// keepReport asks the service for its state, once a LoopWait.
func (e *Elector) keepReport() {
	l := &e.loop
	r, ok := e.c.Service.(Reporter)
	if !ok {
		if l.service == serviceUnknown {
			l.service = serviceUnclear
			e.notify()
		}
		return
	}
	if l.busy[taskReport] {
		if l.reportErr == nil && e.due(l.reportBy) {
			e.reported(l.generation, cluster.Member{}, fmt.Errorf("Report has not returned within %v", l.timing.RetryTimeout))
			e.notify()
		}
		return
	}
	if !e.due(l.reportAt) {
		return
	}
	now := dcs.Now()
	l.reportAt, l.reportBy = now.Add(l.timing.LoopWait), now.Add(l.timing.RetryTimeout)
	e.due(l.reportBy)
	generation, limit := l.generation, l.timing.RetryTimeout
	e.begin(taskReport, func(ctx context.Context) (then func()) {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		var m cluster.Member
		protect("Report", func() (err error) { m, err = r.Report(ctx); return err }, func(err error) {
			then = func() { e.reported(generation, m, err) }
		})
		return then
	})
}

// reported takes a report that was begun in the given generation of the service's
// role.
func (e *Elector) reported(generation int, m cluster.Member, err error) {
	l := &e.loop
	l.reportErr = err
	if err != nil {
		if e.log.Warn("service makes no report", "error", err); l.service == serviceUnknown {
			l.service = serviceUnclear
		}
		return
	}
	l.report, l.reportOf, l.unpublished = m, generation, true
	if generation != l.generation {
		return // the role has changed since
	}
	idle := l.state == Starting || l.state == Following
	switch {
	case m.Primary() && idle:
		l.service = servicePrimary // E2
	case m.Primary():
	case l.state == Leading && m.Role != "" && !l.view.Config.Pause: // E11
		l.unhealthy = true
	case l.service == serviceUnknown && m.Role == "":
		l.service = serviceUnclear
	case idle && m.Role != "":
		l.service = serviceReplica
	}
}

// record returns the record of this member.
func (e *Elector) record() cluster.Member {
	l := &e.loop
	m := e.c.Member
	m.Instance, m.Pause = e.instance, l.view != nil && l.view.Config.Pause
	r := l.report
	set := func(to *string, from, otherwise string) {
		if from != "" {
			*to = from
		}
		if *to == "" {
			*to = otherwise
		}
	}
	role := cluster.RoleReplica
	if l.state == Leading {
		role = cluster.RolePrimary
	}
	set(&m.State, r.State, cluster.StateRunning)
	set(&m.Role, r.Role, role)
	set(&m.ConnURL, r.ConnURL, "")
	set(&m.Version, r.Version, "")
	m.Position, m.Timeline = max(m.Position, r.Position), max(m.Timeline, r.Timeline)
	if r.Tags != nil {
		m.Tags = r.Tags
	}
	if r.Extra != nil {
		m.Extra = r.Extra
	}
	if l.failed {
		m.State = cluster.StateFailed // E9
	}
	return m
}

// keepPublished publishes the record of this member.
func (e *Elector) keepPublished() {
	l := &e.loop
	if l.session == nil || l.session.Err() != nil || l.service == serviceUnknown || l.busy[taskPublish] {
		return
	}
	if !e.due(l.publishAt) && !l.unpublished {
		return
	}
	l.unpublished, l.publishAt = false, dcs.Now().Add(l.timing.LoopWait)
	publisher, m := l.publisher, e.record()
	e.begin(taskPublish, func(ctx context.Context) func() {
		_, err := publisher.Publish(ctx, m)
		return func() {
			if err != nil && publisher == l.publisher {
				e.log.Warn("member record cannot be published", "error", err)
				l.publishAt = dcs.Now().Add(min(time.Second, l.timing.LoopWait))
			}
		}
	})
}

// keepFollowing calls Follow when another member leads, and ends it when that member
// does not lead any more.
func (e *Elector) keepFollowing() {
	l := &e.loop
	follower, ok := e.c.Service.(Follower)
	if !ok || l.view == nil {
		return
	}
	var target string
	var m cluster.Member
	if v := l.view; l.state == Following && !l.shutdown && v.Leader != nil && v.Leader.Name != e.c.Name {
		if m, ok = v.Member(v.Leader.Name); ok {
			target = fmt.Sprint(v.Leader.Token, " ", m.ConnURL)
		}
	}
	if l.following != target {
		e.endFollowing()
	}
	if target == "" || target == l.followed || l.following != "" || e.facts().callback() || !e.due(l.followAt) {
		return
	}
	ctx, cancel := context.WithCancel(e.life)
	l.follow, l.following, l.endFollow = running, target, cancel
	e.callback("Follow", func() error { return follower.Follow(ctx, m) }, func(err error) {
		cancel()
		l.follow, l.following, l.endFollow = none, "", nil
		if err == nil {
			l.followed, l.failed = target, false // a member that follows is healthy
			return
		}
		if l.followAt = dcs.Now().Add(l.timing.LoopWait); ctx.Err() == nil {
			e.log.Warn("service cannot follow the leader", "leader", m.Name, "error", err)
		}
	})
}

// endFollowing ends the context of a Follow that runs.
func (e *Elector) endFollowing() {
	if end := e.loop.endFollow; end != nil {
		end()
	}
}

// retryPause returns a random pause after n failures, so that many members of one
// store that comes back do not come at once.
func retryPause(n int, most time.Duration) time.Duration {
	bound := min(100*time.Millisecond<<min(n, 10), most)
	return rand.N(bound) + 1 //nolint:gosec // G404: jitter needs no secrecy
}
