package endpoint

import "time"

// silent reports whether it owes an answer for longer than is usual.
func (p *Pool) silent(m *member, now time.Duration) bool {
	for _, a := range m.open {
		if now-a.start > p.hedge(m, a.class) {
			return true
		}
	}
	return false
}

// hedge is the silence of m after which another endpoint is asked too.
func (p *Pool) hedge(m *member, c Class) time.Duration {
	floor := p.o.HedgeFloor
	if c == Write {
		floor *= 2
	}
	l := m.lat[c]
	if l.mean == 0 {
		return max(min(4*m.usual(c), p.o.AttemptFloor/2), 4*floor) // nothing is known: the first call dials, too
	}
	return max(min(4*l.mean+l.dev, p.o.AttemptFloor/2), floor)
}

// HedgeAfter is the silence after which a second copy of a call may be sent, if
// [Pool.TakeHedge] allows it then: for attempt.Options.HedgeAfter.
func (p *Pool) HedgeAfter(c Class) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hedge(p.current, c)
}

// TakeHedge spends a hedge, if there is one left: for attempt.Options.Hedge.
func (p *Pool) TakeHedge() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hedges < 1 {
		return false
	}
	p.hedges--
	return true
}

// hedged settles the price of a hedge: more than was spent where the first copy
// was answered before it, because a store that is slow everywhere is only made
// slower by more copies; else nothing. Under p.mu.
func (p *Pool) hedged(err error) {
	if isContext(err) && !isDeadline(err) {
		p.hedges = max(-uselessHedge, p.hedges-(uselessHedge-1))
		return
	}
	p.hedges = min(hedgeBurst, p.hedges+1)
}

// AttemptTimeout is the time for a copy of a call with left to go, in the
// given round (from 0): never all of it while another round could follow.
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
