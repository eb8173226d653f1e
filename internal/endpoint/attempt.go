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

// Endpoint returns the endpoint that the copy must be sent to.
func (a *Attempt) Endpoint() string { return a.m.addr }

// Hedge marks the attempt as a hedge, which is sent while another copy is
// unanswered. The caller must have been allowed it by [Pool.AllowHedge]. The outcome
// decides the cost of the hedge.
func (a *Attempt) Hedge() { a.hedge = true }

// Late records a timeout for an attempt that is left running because a late answer
// is still useful. The silence is counted once: a later End does not count it again.
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
	p.recordSilence(a, now-a.start, now, context.DeadlineExceeded)
	p.reselect()
	p.unlock()
}

// End records the outcome of the attempt. err must be nil for an answer,
// ErrOvertaken if another copy was answered first, the context's error if the
// attempt was given up, and else the error of the attempt.
func (a *Attempt) End(err error) {
	p := a.p
	p.mu.Lock()
	now := p.now()
	a.ended = true
	a.m.remove(a)
	took := now - a.start
	if a.hedge {
		p.hedgeDone(err)
	}
	switch {
	case err == nil:
		p.recordAnswer(a, took, now)
	case a.late && isContext(err): // Late has counted the silence
	case isContext(err) || err == ErrOvertaken: //nolint:errorlint // passed by callers, never wrapped
		p.recordSilence(a, took, now, err)
	default:
		p.judge(a.m, a.start, now, p.o.Judge(err))
	}
	p.reselect()
	p.unlock()
}

// judge acts on the verdict on an error that m answered at now to a request sent at
// start. Under p.mu.
func (p *Pool) judge(m *member, start, now time.Duration, v Verdict) {
	p.setBusy(m, now, v)
	switch {
	case v.Final:
		m.failures = 0
		p.clearBusy(m)
	case v.Local || v.Unconfirmed:
	case v.Doubt:
		p.recordDoubt(m, start, now, v.Reason)
	case v.Blame || v.Unreachable:
		p.recordFailure(m, now, v.Reason, v.Unreachable)
		m.unreachable = v.Unreachable
	}
}

// recordAnswer records that a was answered at now, after took. Under p.mu.
func (p *Pool) recordAnswer(a *Attempt, took, now time.Duration) {
	m := a.m
	p.clearBusy(m)
	m.silentAt = 0
	m.lat[a.class].add(m.lat[a.class].damped(took))
	p.clearFailures(m, now)
	p.resolveDoubts(a)
	if a.late {
		return // the answer was slow: later results about the endpoint stay valid
	}
	p.answered[a.class] = max(p.answered[a.class], a.start)
	if m.ejected {
		p.restore(m, "endpoint answers again")
	}
}

// recordDoubt records that an endpoint answered at now that it cannot serve a request
// that was sent at start. This is a failure if an endpoint has answered a request
// that was sent later. Under p.mu.
func (p *Pool) recordDoubt(m *member, start, now time.Duration, why string) {
	m.silentAt = 0
	if start < max(p.answered[Read], p.answered[Write], p.answered[Renew]) {
		p.recordFailure(m, now, why, false)
		return
	}
	m.doubtAt, m.doubtWhy = now, why
}

// resolveDoubts counts a failure of each endpoint that had answered that it could
// not serve before a was sent. If the endpoint of a, which has now answered, had
// done so too, the store was the cause and no failure is counted. Under p.mu.
func (p *Pool) resolveDoubts(a *Attempt) {
	shared := a.m.doubtAt > 0
	a.m.doubtAt = 0
	for _, m := range p.members {
		if m.doubtAt > 0 && m.doubtAt <= a.start {
			m.doubtAt = 0
			if !shared {
				p.recordFailure(m, p.now(), m.doubtWhy, false)
			}
		}
	}
}

// clearFailures resets the failures of an endpoint that answered, and postpones the probe
// that was to verify them. Under p.mu.
func (p *Pool) clearFailures(m *member, now time.Duration) {
	if m.failures > 0 && !m.ejected {
		m.failures = 0
		m.probeAt = now + p.samplePause()
	}
}

// samplePause returns the pause before the next probe of a healthy endpoint.
func (p *Pool) samplePause() time.Duration {
	return p.o.SampleInterval/2 + p.jitter(p.o.SampleInterval)
}

// recordSilence judges an attempt that ended without an answer. It is a failure of the
// endpoint if the attempt timed out, or if it was silent for longer than usual and
// a later request to an endpoint has been answered. Under p.mu.
func (p *Pool) recordSilence(a *Attempt, took, now time.Duration, err error) {
	// The timeout of a copy that was sent with little time left proves nothing.
	expired := isDeadline(err) && took >= p.o.AttemptFloor*9/10
	if !expired && (took <= p.hedge(a.m, a.class) || p.answered[a.class] <= a.start) {
		if isDeadline(err) && p.answered[a.class] <= a.start {
			p.probeSoon(a.m, now) // a probe has enough time to find out
		}
		return
	}
	p.recordFailure(a.m, now, "no answer within "+round(took).String(), false)
	if p.answered[a.class] > a.start {
		a.m.lat[a.class].atLeast(took) // while all endpoints fail, silence is no measure of latency
	}
}
