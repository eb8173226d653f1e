package endpoint

import (
	"context"
	"slices"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Listed is an endpoint in the store's own list of its servers.
type Listed struct {
	Endpoint string
	// Server identifies the server, as in [Pool.Identify]. Empty means unknown.
	Server string
}

// Unidentified returns a Topology that lists the endpoints of list without
// identifying their servers.
func Unidentified(list func(ctx context.Context) ([]string, error)) func(ctx context.Context) ([]Listed, error) {
	return func(ctx context.Context) ([]Listed, error) {
		endpoints, err := list(ctx)
		var listed []Listed
		for _, e := range endpoints {
			listed = append(listed, Listed{Endpoint: e})
		}
		return listed, err
	}
}

// Identify records which server answers at an endpoint. Endpoints of the same server
// count as one. Calls use the endpoint that was known first, seeds before others, and
// the others have no connection. While that endpoint is ejected, another one replaces
// it after successful probes, so that the server stays reachable by any of its
// addresses.
func (p *Pool) Identify(endpoint, server string) {
	p.mu.Lock()
	m := p.find(endpoint)
	if m == nil || m.id == server {
		p.mu.Unlock()
		return
	}
	m.id = server
	p.regroup()
	p.reselect()
	p.unlock()
}

// regroup determines which endpoints are shadowed by another one of their server. It
// must be called whenever an endpoint is added, removed, identified, ejected or
// restored. Under p.mu.
func (p *Pool) regroup() {
	for _, m := range p.members {
		shadowed, wasIdle := p.isReplaced(m), m.idle
		changed := shadowed != m.shadowed
		m.shadowed = shadowed
		m.idle = p.isIdle(m)
		if shadowed && changed || m.idle && !wasIdle { // it may have been probed while the other one was ejected
			p.drop(m)
		}
		if !changed {
			continue
		}
		if shadowed {
			p.report(dcs.EndpointEvent{Change: dcs.Removed, From: m.addr, Reason: "same server as " + p.first(m).addr})
			continue
		}
		m.probeAt = p.now()
		p.report(dcs.EndpointEvent{Change: dcs.Added, From: m.addr, Reason: "server does not answer at its other addresses"})
		p.wakeUp()
	}
}

// first returns the endpoint that calls to the server of m use. It is the first one
// that is not ejected, or the first of all if all are. Under p.mu.
func (p *Pool) first(m *member) *member {
	best := m
	for _, o := range p.members {
		if p.isSameServer(o, m) && (o.ejected == best.ejected && o.rank < best.rank || !o.ejected && best.ejected) {
			best = o
		}
	}
	return best
}

// isReplaced reports whether m is not used because another endpoint of its server is.
// Under p.mu.
func (p *Pool) isReplaced(m *member) bool {
	earlier := slices.ContainsFunc(p.members, func(o *member) bool { return p.isSameServer(o, m) && o.rank < m.rank })
	return earlier && p.first(m) != m
}

// isIdle reports whether m needs no connection. Under p.mu.
func (p *Pool) isIdle(m *member) bool { return m.shadowed && !p.first(m).ejected }

// isSameServer reports whether a and b are known to be endpoints of the same server.
func (*Pool) isSameServer(a, b *member) bool { return a.id != "" && a.id == b.id }

// ejectOthers ejects the other endpoints of m's server until probes succeed there,
// because the server itself may have failed. Under p.mu.
func (p *Pool) ejectOthers(m *member) {
	if p.o.Probe == nil {
		return
	}
	now := p.now()
	for _, o := range p.members {
		if o != m && p.isSameServer(o, m) && !o.ejected {
			o.ejected, o.why, o.proven, o.pause = true, m.why, 0, p.o.ProbeInterval
			o.probeAt = now + p.jitter(o.pause)
		}
	}
}

// size returns the number of servers, as far as they have been identified.
func (p *Pool) size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, m := range p.members {
		if !m.shadowed {
			n++
		}
	}
	return n
}
