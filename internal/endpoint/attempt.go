package endpoint

import (
	"context"
	"time"
)

// Attempt is one copy of a call at one endpoint.
type Attempt struct {
	p     *Pool
	m     *member
	class Class
	start time.Duration
	hedge bool
	late  bool
	ended bool
}

// Endpoint is where the copy goes.
func (a *Attempt) Endpoint() string { return a.m.addr }

// Hedge says that the copy is sent beside one that is unanswered, after
// [Pool.TakeHedge]: how it ends decides what it costs.
func (a *Attempt) Hedge() { a.hedge = true }

// Late says that the copy's time is over though it is left alone, because its
// answer will still do: it counts as silence now, and no more.
func (a *Attempt) Late() {
	p := a.p
	p.mu.Lock()
	if a.ended {
		p.mu.Unlock()
		return
	}
	now := p.now()
	a.late = true
	a.m.remove(a)
	p.unanswered(a, now-a.start, now, context.DeadlineExceeded)
	p.reconsider()
	p.mu.Unlock()
	p.tell()
}

// End says what became of the attempt: nil for an answer, ErrOvertaken when
// another copy was answered first, the context's error when it was given up,
// else the error.
func (a *Attempt) End(err error) {
	p := a.p
	p.mu.Lock()
	now := p.now()
	a.ended = true
	a.m.remove(a)
	took := now - a.start
	if a.hedge {
		p.hedged(err)
	}
	switch {
	case err == nil:
		p.answer(a, took, now)
	case a.late && isContext(err): // its silence has been counted
	case isContext(err) || err == ErrOvertaken: //nolint:errorlint // given by us, never wrapped
		p.unanswered(a, took, now, err)
	default:
		p.judge(a.m, a.start, now, p.o.Judge(err))
	}
	p.reconsider()
	p.mu.Unlock()
	p.tell()
}

// judge acts on the verdict on m's answer, at now, to what was sent at start. Under
// p.mu.
func (p *Pool) judge(m *member, start, now time.Duration, v Verdict) {
	p.rest(m, now, v)
	switch {
	case v.Final:
		m.strikes = 0
		p.rested(m)
	case v.Local || v.Unconfirmed:
	case v.Doubt:
		p.doubt(m, start, now, v.Reason)
	case v.Blame || v.Unreachable:
		p.strike(m, now, v.Reason, v.Unreachable)
		m.unreachable = v.Unreachable
	}
}

func (p *Pool) answer(a *Attempt, took, now time.Duration) {
	m := a.m
	p.rested(m)
	m.silentAt = 0
	m.lat[a.class].add(m.lat[a.class].damped(took))
	p.well(m, now)
	p.resolveDoubts(a)
	if a.late {
		return // it was slow: what was found since stands
	}
	p.answered[a.class] = max(p.answered[a.class], a.start)
	if m.out {
		p.restore(m, "answers again")
	}
}

// doubt notes that an endpoint answered, at now, that it cannot serve what was
// sent at start. It is a fault if another endpoint could serve what came later.
func (p *Pool) doubt(m *member, start, now time.Duration, why string) {
	m.silentAt = 0
	if start < max(p.answered[Read], p.answered[Write], p.answered[Renew]) {
		p.strike(m, now, why, false)
		return
	}
	m.doubtAt, m.doubtWhy = now, why
}

// resolveDoubts counts a fault of each endpoint that had refused to serve before
// a was sent, which another one has answered now. If that one had refused too,
// the reason was the store's.
func (p *Pool) resolveDoubts(a *Attempt) {
	shared := a.m.doubtAt > 0
	a.m.doubtAt = 0
	for _, m := range p.members {
		if m.doubtAt > 0 && m.doubtAt <= a.start {
			m.doubtAt = 0
			if !shared {
				p.strike(m, p.now(), m.doubtWhy, false)
			}
		}
	}
}

// well forgets the faults of an endpoint that answered, and the probe that was
// to tell what they were.
func (p *Pool) well(m *member, now time.Duration) {
	if m.strikes > 0 && !m.out {
		m.strikes = 0
		m.probeAt = now + p.sampled()
	}
}

// sampled is how long an endpoint that is well and not in use is not asked.
func (p *Pool) sampled() time.Duration { return p.o.SampleInterval/2 + p.jitter(p.o.SampleInterval) }

// unanswered judges silence: it counts against the endpoint when its own time
// ran out, or when what was sent elsewhere later has been answered.
func (p *Pool) unanswered(a *Attempt, took, now time.Duration, err error) {
	// A copy that was sent with little time left proves nothing by its end.
	expired := isDeadline(err) && took >= p.o.AttemptFloor*9/10
	if !expired && (took <= p.hedge(a.m, a.class) || p.answered[a.class] <= a.start) {
		if isDeadline(err) && p.answered[a.class] <= a.start {
			p.probeSoon(a.m, now) // which has the time to find out
		}
		return
	}
	p.strike(a.m, now, "no answer within "+round(took).String(), false)
	if p.answered[a.class] > a.start {
		a.m.lat[a.class].atLeast(took) // in an outage of all, silence says nothing of latency
	}
}
