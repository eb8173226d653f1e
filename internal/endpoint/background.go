package endpoint

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// background probes endpoints and refreshes the list of members and the names until
// the Pool is closed.
func (p *Pool) background() {
	defer p.done.Done()
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-p.life.Done():
			return
		case <-p.wake:
		case <-t.C:
		}
		t.Reset(p.work())
	}
}

// wakeUp makes the background goroutine run the work that is due.
func (p *Pool) wakeUp() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// work starts the tasks that are due and returns the time until the next one.
func (p *Pool) work() time.Duration {
	p.mu.Lock()
	defer p.unlock()
	now := p.now()
	next := now + time.Minute
	if len(p.names) > 0 {
		next = min(next, p.runDueLookups(now))
	}
	if p.o.Topology != nil && !p.listing {
		if p.listAt <= now {
			p.listing = true
			p.done.Add(1)
			go p.list()
		} else {
			next = min(next, p.listAt)
		}
	}
	throttled := p.throttled() != nil
	for _, m := range p.members {
		switch {
		case m.probing || p.isIdle(m) || !m.ejected && (p.o.Probe == nil || p.o.SampleInterval < 0):
		case m.probeAt > now:
			next = min(next, m.probeAt)
		case throttled && !m.ejected: // the calls have the one request a second
			m.probeAt = now + p.samplePause()
			next = min(next, m.probeAt)
		case p.o.Probe == nil:
			p.restore(m, "ejection interval elapsed")
			m.failures = ejectAfter - 1 // one more failure ejects it again
		case !p.probes.take(now):
			next = min(next, now+time.Second/probesPerSecond)
		default:
			m.probing = true
			p.done.Add(1)
			go p.probe(m)
		}
	}
	return max(next-now, time.Millisecond)
}

// probe sends a request to the quorum through m.
func (p *Pool) probe(m *member) {
	defer p.done.Done()
	ctx, cancel := context.WithTimeout(p.life, 2*p.o.AttemptFloor)
	defer cancel()
	p.mu.Lock()
	began := p.now()
	p.mu.Unlock()
	leads, err := p.o.Probe(ctx, m.addr)
	if p.life.Err() != nil {
		return
	}
	p.mu.Lock()
	defer p.unlock()
	now := p.now()
	m.probing = false
	switch {
	case m.gone:
	case err != nil:
		p.probeFailed(m, began, now, err)
	default:
		p.probeSucceeded(m, now, now-began, leads)
	}
	p.reselect()
	p.wakeUp()
}

// failureReason returns the reason of a failed probe.
func (p *Pool) failureReason(err error, took time.Duration) string {
	if isContext(err) {
		return "no answer within " + round(took).String()
	}
	return p.o.Judge(err).Reason
}

// probeSucceeded records a probe of m that was answered. Under p.mu.
func (p *Pool) probeSucceeded(m *member, now, took time.Duration, leads bool) {
	if m.ejected {
		m.lat = [classes]latency{} // its latency from before the failure no longer applies
	}
	m.silentAt = 0
	if m.again && took < m.lat[Read].mean {
		m.lat[Read] = latency{}
	}
	m.lat[Read].add(took)
	if leads {
		p.setLeader(m)
	} else {
		m.leads = false
	}
	m.probeAt = now + p.samplePause()
	m.again = !m.probed && leads && slower(m, p.current)
	m.probed = true
	if m.again {
		// The first probe connects, and its duration is no reason to leave the leader.
		m.probeAt = now + p.jitter(p.o.ProbeInterval)
	}
	m.doubtAt = 0
	p.clearBusy(m)
	if !m.ejected {
		m.failures = 0
		return
	}
	if m.proven++; m.proven >= restoreAfter {
		p.restore(m, "endpoint answers again")
		return
	}
	m.probeAt = now + p.jitter(p.o.ProbeInterval)
}

// probeFailed records a probe of m that failed. Under p.mu.
func (p *Pool) probeFailed(m *member, began, now time.Duration, err error) {
	why := p.failureReason(err, now-began)
	m.unreachable = false
	if !isContext(err) {
		v := p.o.Judge(err)
		defer func() { m.unreachable = v.Unreachable }()
		p.setBusy(m, now, v)
		switch {
		case m.ejected:
		case v.Doubt:
			p.recordDoubt(m, began, now, why)
			if m.probeAt = now + p.jitter(p.o.ProbeInterval); v.Throttled {
				m.probeAt = now + p.samplePause() // calls are sent one at a time and show whether it serves
			}
			return
		case !v.Blame && !v.Unreachable:
			m.probeAt = now + p.samplePause()
			return
		}
	}
	if !m.ejected {
		// A probe is not cut short by a caller and had its full time. One failure is
		// therefore enough to eject the endpoint.
		p.recordFailure(m, now, why, true)
		return
	}
	m.proven, m.why = 0, why
	p.dropSilent(m, now)
	p.scheduleLookups(now) // the name may resolve to another server now
	m.pause = min(2*m.pause, maxPause*p.o.ProbeInterval)
	m.probeAt = now + m.pause/2 + p.jitter(m.pause/2)
}

// list requests the list of members.
func (p *Pool) list() {
	defer p.done.Done()
	ctx, cancel := context.WithTimeout(p.life, p.o.Budget)
	defer cancel()
	listed, err := p.o.Topology(ctx)
	if p.life.Err() != nil {
		return
	}
	p.mu.Lock()
	defer p.unlock()
	p.listing = false
	now := p.now()
	if err != nil || len(listed) == 0 {
		p.listAt = now + p.o.ProbeInterval + p.jitter(p.o.TopologyInterval/10)
		return
	}
	p.listAt = now + p.o.TopologyInterval/2 + p.jitter(p.o.TopologyInterval)
	p.merge(listed)
	p.wakeUp()
}

// merge applies the list of members. A new member is not used before probes have
// succeeded, because its address may not be reachable from this client. Under p.mu.
func (p *Pool) merge(list []Listed) {
	listed := map[string]bool{}
	for _, l := range list {
		listed[l.Endpoint] = true
		if m := p.find(l.Endpoint); m != nil && m.id == "" {
			m.id = l.Server
		} else if m == nil && p.findName(l.Endpoint) == nil {
			p.discovered(l)
		}
	}
	for _, n := range p.names {
		n.listed = listed[n.label]
	}
	for _, m := range p.members {
		m.listed = listed[m.addr] || m.name != nil && m.name.listed
	}
	p.removeIf(func(m *member) (string, bool) {
		return "no longer in the store's list of members", !m.listed && !m.seed
	})
	p.names = slices.DeleteFunc(p.names, func(n *name) bool { return !n.listed && !n.seed })
	p.reselect()
}

// discovered adds an endpoint for a member that is new in the list. Under p.mu.
func (p *Pool) discovered(l Listed) {
	m := &member{addr: l.Endpoint, id: l.Server, name: p.newName(l.Endpoint), ejected: p.o.Probe != nil, why: "new endpoint, not probed yet", pause: p.o.ProbeInterval}
	p.add(m)
	if m.name != nil {
		p.names = append(p.names, m.name)
		p.lookUp(m.name)
	}
	if m.shadowed = p.isReplaced(m); !m.shadowed {
		p.report(dcs.EndpointEvent{Change: dcs.Added, From: m.addr, Reason: "listed by the store"})
	}
}

// report logs one decision and passes it to the observer. Both only queue it (see
// [dcs.Detached]). Under p.mu, so that the events are in order.
func (p *Pool) report(ev dcs.EndpointEvent) {
	ev.Backend = p.o.Backend
	level := slog.LevelInfo
	if ev.Change == dcs.Ejected {
		level = slog.LevelWarn
	}
	args := []any{"endpoint", ev.From, "reason", ev.Reason}
	if ev.To != "" {
		args = []any{"endpoint", ev.To, "instead_of", ev.From, "reason", ev.Reason}
	}
	p.o.Logger.Log(context.Background(), level, "endpoint "+ev.Change.String(), args...)
	if p.o.Observer != nil {
		p.o.Observer(ev)
	}
}
