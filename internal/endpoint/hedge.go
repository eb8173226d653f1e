package endpoint

import "time"

// isSilent reports whether m has an attempt that has been unanswered for longer than
// usual. Under p.mu.
func (p *Pool) isSilent(m *member, now time.Duration) bool {
	for _, a := range m.open {
		if now-a.start > p.hedge(m, a.class) {
			return true
		}
	}
	return false
}

// hedge returns how long a call to m must be unanswered before a copy is sent to
// another endpoint. Under p.mu.
func (p *Pool) hedge(m *member, c Class) time.Duration {
	floor := p.o.HedgeFloor
	if c == Write {
		floor *= 2
	}
	l := m.lat[c]
	if l.mean == 0 {
		return max(min(4*m.usual(c), p.o.AttemptFloor/2), 4*floor) // no latency is known, and the first call has to dial
	}
	return max(min(4*l.mean+l.dev, p.o.AttemptFloor/2), floor)
}

// HedgeAfter returns how long a call must be unanswered before a second copy may be
// sent, if [Pool.AllowHedge] allows it then. It is meant for
// attempt.Options.HedgeAfter.
func (p *Pool) HedgeAfter(c Class) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hedge(p.current, c)
}

// AllowHedge reports whether a hedge may be sent, and takes it from the hedge budget.
// It is meant for attempt.Options.Hedge.
func (p *Pool) AllowHedge() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hedges < 1 {
		return false
	}
	p.hedges--
	return true
}

// hedgeDone adjusts the hedge budget when a hedge has ended with err. A hedge that
// loses to the original costs extra tokens, because more copies only slow down a
// store that is slow at every endpoint. Any other hedge is refunded. Under p.mu.
func (p *Pool) hedgeDone(err error) {
	if isContext(err) && !isDeadline(err) {
		p.hedges = max(-uselessHedge, p.hedges-(uselessHedge-1))
		return
	}
	p.hedges = min(hedgeBurst, p.hedges+1)
}

// AttemptTimeout returns the timeout of a copy in the given round, counted from 0.
// left is the remaining time of the call. The timeout is at most two thirds of left,
// so that another round can follow, but at least 10 ms.
func (p *Pool) AttemptTimeout(c Class, left time.Duration, round int) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.o.AttemptFloor << min(max(round-steadyRounds+1, 0), 16)
	d = max(d, 4*p.current.usual(c))
	if share := left * 2 / 3; share >= minAttempt {
		d = min(d, share)
	}
	return max(d, minAttempt)
}
