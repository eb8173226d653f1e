package endpoint

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// throttledEvery is the interval between requests while every endpoint refuses
// requests because there are too many.
const throttledEvery = time.Second

// admitReserve is how long before the deadline Admit gives up.
const admitReserve = 20 * time.Millisecond

// throttle is the state of [Pool.Admit].
type throttle struct {
	next   time.Duration // when the next request may be sent
	served chan struct{} // closed when an endpoint that refused serves; nil if no call waits
}

// Admit waits until a request may be sent, which is normally at once. While every
// endpoint that is not ejected refuses requests because there are too many, it admits
// one request a second, and none before the time that the endpoints have named.
// It returns [dcs.ErrClosed] if the Pool is closed while it waits, and a [Fault] 20 ms before the
// deadline of ctx, so that the caller can still report that nothing was sent. If ctx is
// cancelled it returns the Fault, or the error of ctx if it was done before the call.
func (p *Pool) Admit(ctx context.Context) error {
	deadline, bounded := ctx.Deadline()
	for ctx.Err() == nil {
		p.mu.Lock()
		m, wait := p.turn()
		if m == nil {
			p.mu.Unlock()
			return nil
		}
		fault := &Fault{m.addr, fmt.Errorf("all servers refuse requests: %s", m.busyWhy)}
		if p.throttle.served == nil {
			p.throttle.served = make(chan struct{})
		}
		served := p.throttle.served
		p.mu.Unlock()
		left := time.Until(deadline) - admitReserve
		if bounded && left <= 0 {
			return fault
		} else if bounded {
			wait = min(wait, left)
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-served:
		case <-ctx.Done():
		case <-p.life.Done():
		}
		t.Stop()
		switch {
		case p.life.Err() != nil:
			return dcs.ErrClosed
		case ctx.Err() != nil:
			return fault
		}
	}
	return ctx.Err()
}

// turn takes the next turn to send a request. It returns nil if the request may be sent
// now, and else an endpoint that refuses requests and how long to wait. Under p.mu.
func (p *Pool) turn() (*member, time.Duration) {
	first := p.throttled()
	if first == nil {
		return nil, 0
	}
	now := p.now()
	if at := max(p.throttle.next, first.busyUntil); at > now {
		return first, at - now
	}
	p.throttle.next = now + throttledEvery
	return nil, 0
}

// throttled returns nil, unless every endpoint that is not ejected refuses requests.
// Then it returns the one that may be called first. Under p.mu.
func (p *Pool) throttled() *member {
	var first *member
	for _, m := range p.members {
		switch {
		case m.ejected:
		case !m.throttled:
			return nil
		case first == nil || m.busyUntil < first.busyUntil:
			first = m
		}
	}
	return first
}

// isGated reports whether Admit admits one request a second only.
func (p *Pool) isGated() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.throttled() != nil
}

// IsThrottled reports whether every endpoint that is not ejected refuses requests
// because there are too many. The caller must then not send two requests at a time.
func (p *Pool) IsThrottled() bool { return p.isGated() }

// setBusy records that m asks not to be called. The time is limited to the budget of a
// call, because a longer one would lose leases. Under p.mu.
func (p *Pool) setBusy(m *member, now time.Duration, v Verdict) {
	if v.Busy <= 0 && !v.Throttled {
		return
	}
	m.busyUntil, m.busyWhy, m.throttled = now+min(v.Busy, p.o.Budget), v.Reason, v.Throttled
}

// clearBusy records that m serves requests. Under p.mu.
func (p *Pool) clearBusy(m *member) {
	m.busyUntil = 0
	if !m.throttled {
		return
	}
	m.throttled = false
	if p.throttle.served != nil {
		close(p.throttle.served)
		p.throttle.served = nil
	}
}
