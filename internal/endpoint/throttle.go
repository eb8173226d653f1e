package endpoint

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// throttledEvery is how often a request may be sent while every endpoint refuses
// requests because there are too many.
const throttledEvery = time.Second

// admitReserve is how long before a deadline a request is not sent any more.
const admitReserve = 20 * time.Millisecond

// throttle is the state of [Pool.Admit].
type throttle struct {
	next   time.Duration // when the next request may be sent
	served chan struct{} // closed when an endpoint that refused serves; nil: nobody waits
}

// Admit waits until a request may be sent: at once, or, while every endpoint
// that is in use refuses requests because there are too many, once a second and
// not before the time that the endpoints have named. When ctx or the Pool ends
// before, it returns why, as a [Fault] or as [dcs.ErrClosed]: a little before ctx's
// deadline, so that the caller still learns that nothing was sent.
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

// turn takes the next turn to send a request, where there are turns. If that has
// not come yet, it returns how long to wait and an endpoint that refuses. Under
// p.mu.
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

// throttled returns the endpoint that can be asked first, if every endpoint that
// is in use refuses requests. Under p.mu.
func (p *Pool) throttled() *member {
	var first *member
	for _, m := range p.members {
		switch {
		case m.out:
		case !m.throttled:
			return nil
		case first == nil || m.busyUntil < first.busyUntil:
			first = m
		}
	}
	return first
}

// gated reports whether requests have turns.
func (p *Pool) gated() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.throttled() != nil
}

// IsThrottled reports whether every endpoint refuses requests because there are
// too many, so that a caller must not send two at a time.
func (p *Pool) IsThrottled() bool { return p.gated() }

// rest leaves an endpoint alone that asks for it. A time that is longer than a
// call's budget would lose leases. Under p.mu.
func (p *Pool) rest(m *member, now time.Duration, v Verdict) {
	if v.Busy <= 0 && !v.Throttled {
		return
	}
	m.busyUntil, m.busyWhy, m.throttled = now+min(v.Busy, p.o.Budget), v.Reason, v.Throttled
}

// rested notes that an endpoint serves. Under p.mu.
func (p *Pool) rested(m *member) {
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
