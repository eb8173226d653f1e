package endpoint

import (
	"context"
	"slices"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Listed is an endpoint in the store's own list of its servers.
type Listed struct {
	Endpoint string
	// Server identifies the server, as for [Pool.Identify]; empty means unknown.
	Server string
}

// Unidentified returns a Topology of endpoints whose servers are not known.
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

// Identify notes which server answers at an endpoint. Endpoints at which one
// server answers count as one: calls use the one that was known first, seeds before
// others, and the others have no connection. While it is ejected another one takes
// its place, once that has proved itself, so that the server stays reachable by any
// of its addresses.
func (p *Pool) Identify(endpoint, server string) {
	p.mu.Lock()
	m := p.find(endpoint)
	if m == nil || m.id == server {
		p.mu.Unlock()
		return
	}
	m.id = server
	p.regroup()
	p.reconsider()
	p.mu.Unlock()
	p.tell()
}

// regroup finds the endpoints that others stand for. It is called whenever an
// endpoint appears, disappears, is identified, ejected or restored. Under p.mu.
func (p *Pool) regroup() {
	for _, m := range p.members {
		shadowed := p.replaced(m)
		if shadowed == m.shadowed {
			continue
		}
		m.shadowed = shadowed
		same := p.first(m)
		if shadowed {
			p.decide(dcs.EndpointEvent{Change: dcs.Removed, From: m.addr, Reason: "the same server as " + same.addr})
			p.drop(m)
			continue
		}
		m.probeAt = p.now()
		p.decide(dcs.EndpointEvent{Change: dcs.Added, From: m.addr, Reason: "an address of a server that does not answer at another one"})
		p.poke()
	}
}

// first returns the endpoint that calls to the server of m use: of those that are
// not ejected, or of all, the first one. Under p.mu.
func (p *Pool) first(m *member) *member {
	best := m
	for _, o := range p.members {
		if p.same(o, m) && (o.out == best.out && o.rank < best.rank || !o.out && best.out) {
			best = o
		}
	}
	return best
}

// replaced reports whether m does not count, because another endpoint of its server
// does. Under p.mu.
func (p *Pool) replaced(m *member) bool {
	earlier := slices.ContainsFunc(p.members, func(o *member) bool { return p.same(o, m) && o.rank < m.rank })
	return earlier && p.first(m) != m
}

// idle reports whether m needs no connection. Under p.mu.
func (p *Pool) idle(m *member) bool { return m.shadowed && !p.first(m).out }

// same reports whether one server answers at two endpoints.
func (*Pool) same(a, b *member) bool { return a.id != "" && a.id == b.id }

// ejectOthers makes the other addresses of m's server prove themselves before
// they are used, because it may be the server that fails. Under p.mu.
func (p *Pool) ejectOthers(m *member) {
	if p.o.Probe == nil {
		return
	}
	now := p.now()
	for _, o := range p.members {
		if o != m && p.same(o, m) && !o.out {
			o.out, o.why, o.proven, o.pause = true, m.why, 0, p.o.ProbeInterval
			o.probeAt = now + p.jitter(o.pause)
		}
	}
}

// size returns how many servers there are, as far as they can be distinguished.
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
