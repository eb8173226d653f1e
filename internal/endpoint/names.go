package endpoint

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// An endpoint is written in one of two forms. "host:port" is an IP address, or a
// name that has one address. "host/ip:port" is one address of a name that has, or
// once had, several.

// Host returns the host of an endpoint, which TLS verifies.
func Host(endpoint string) string {
	host, _, err := net.SplitHostPort(HostPort(endpoint))
	if err != nil {
		return endpoint
	}
	return host
}

// SocketScheme precedes the path of an endpoint that is a socket of this machine.
const SocketScheme = "unix://"

func isSocket(endpoint string) bool { return strings.HasPrefix(endpoint, SocketScheme) }

// HostPort returns host:port of an endpoint, without the address that was looked
// up.
func HostPort(endpoint string) string {
	host, address, several := strings.Cut(endpoint, "/")
	if !several || isSocket(endpoint) {
		return endpoint
	}
	_, port, _ := net.SplitHostPort(address) // it was joined by name.endpoint
	return net.JoinHostPort(host, port)
}

// LookupFunc returns all addresses of a host. It must return when ctx ends.
type LookupFunc func(ctx context.Context, host string) ([]netip.Addr, error)

// LookupBy returns a LookupFunc that asks r for A and AAAA records. Nil means the
// system's resolver.
func LookupBy(r *net.Resolver) LookupFunc {
	if r == nil {
		r = net.DefaultResolver
	}
	return func(ctx context.Context, host string) ([]netip.Addr, error) { return r.LookupNetIP(ctx, "ip", host) }
}

// name is a host name among the endpoints.
type name struct {
	label        string // host:port
	host, port   string
	seed, listed bool

	addrs   []netip.Addr // by the last lookup that succeeded; nil before
	several bool         // there have been several: each is an endpoint
	err     error        // of the last lookup
	looking bool
	looked  chan struct{} // closed when the lookup under way ends
}

func (n *name) endpoint(addr netip.Addr) string {
	return n.host + "/" + net.JoinHostPort(addr.String(), n.port)
}

// newName returns the name of an endpoint, or nil if its host is an address or
// names are not looked up.
func (p *Pool) newName(endpoint string) *name {
	host, port, err := net.SplitHostPort(endpoint)
	if p.o.Lookup == nil || err != nil {
		return nil
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return nil
	}
	return &name{label: endpoint, host: host, port: port}
}

func (p *Pool) findName(label string) *name {
	for _, n := range p.names {
		if n.label == label {
			return n
		}
	}
	return nil
}

var (
	// errSeveral ends the dial of a name that was found to have several addresses:
	// each has become an endpoint.
	errSeveral   = errors.New("the name has several addresses: each is an endpoint now")
	errNoAddress = errors.New("the name has no address")
)

// Address returns ip:port to dial for an endpoint. It waits for a lookup only
// while the host has no known address, and not beyond ctx: a resolver that fails
// does not make a known address unusable.
func (p *Pool) Address(ctx context.Context, endpoint string) (string, error) {
	if isSocket(endpoint) {
		return endpoint, nil
	}
	if _, address, several := strings.Cut(endpoint, "/"); several {
		return address, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.findName(endpoint)
	if n == nil {
		return endpoint, nil
	}
	if n.addrs == nil {
		if p.life.Err() != nil {
			return "", dcs.ErrClosed
		}
		p.look(n)
		looked := n.looked
		p.mu.Unlock()
		select {
		case <-looked:
		case <-ctx.Done():
		}
		p.mu.Lock()
	}
	switch {
	case n.addrs == nil && ctx.Err() != nil:
		return "", fmt.Errorf("looking up %s: %w", n.host, ctx.Err())
	case n.several:
		return "", errSeveral
	case len(n.addrs) == 1:
		return net.JoinHostPort(n.addrs[0].String(), n.port), nil
	}
	return "", n.err
}

// lookAll begins a lookup of every name. Under p.mu.
func (p *Pool) lookAll() {
	for _, n := range p.names {
		p.look(n)
	}
}

// look begins a lookup of n, unless one is under way. Under p.mu.
func (p *Pool) look(n *name) {
	if n.looking || p.life.Err() != nil {
		return
	}
	n.looking, n.looked = true, make(chan struct{})
	p.done.Add(1)
	go p.lookup(n)
}

func (p *Pool) lookup(n *name) {
	defer p.done.Done()
	ctx, cancel := context.WithTimeout(p.life, p.o.Budget)
	defer cancel()
	addrs, err := p.o.Lookup(ctx, n.host)
	p.mu.Lock()
	defer p.tell()
	defer p.mu.Unlock()
	n.looking = false
	close(n.looked)
	if err == nil && len(addrs) == 0 {
		err = errNoAddress
	}
	if n.err = err; p.life.Err() != nil || p.findName(n.label) != n {
		return
	}
	if err == nil {
		p.resolved(n, addrs)
		p.reconsider()
	}
	p.poke()
}

// resolved takes over the addresses of a name. Under p.mu.
func (p *Pool) resolved(n *name, addrs []netip.Addr) {
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	addrs = slices.Compact(addrs)
	before := n.addrs
	n.addrs = addrs
	if n.several = n.several || len(addrs) > 1; n.several {
		p.split(n, before)
		return
	}
	if len(before) == 1 && before[0] != addrs[0] {
		p.moved(p.find(n.label))
	}
}

// moved makes m, whose name has another address, an endpoint of which nothing is
// known. Under p.mu.
func (p *Pool) moved(m *member) {
	p.drop(m)
	m.id, m.lat, m.leads, m.strikes, m.doubtAt = "", [classes]latency{}, false, 0, 0
	m.proven, m.pause, m.probeAt = 0, p.o.ProbeInterval, p.now()
	p.regroup()
}

// split makes each address of n an endpoint, and ends those that are none of n's
// any more. An address that comes later must prove itself, as any other that was
// not configured. Under p.mu.
func (p *Pool) split(n *name, before []netip.Addr) {
	whole := p.find(n.label) // before n had several
	var usable []*member
	for _, addr := range n.addrs {
		label := n.endpoint(addr)
		if p.find(label) != nil {
			continue
		}
		m := &member{addr: label, name: n, seed: n.seed, pause: p.o.ProbeInterval}
		switch {
		case whole == nil || len(before) > 0 && !slices.Contains(before, addr):
			m.out = p.o.Probe != nil
		case len(before) == 0:
			m.out, m.id = whole.out && !n.seed, whole.id
		default: // the address that calls went to
			m.out, m.lat, m.leads, m.id = whole.out, whole.lat, whole.leads, whole.id
		}
		if m.out {
			m.why = "it is new"
		} else {
			usable = append(usable, m)
		}
		p.add(m)
		p.decide(dcs.EndpointEvent{Change: dcs.Added, From: label, Reason: "an address of " + n.host})
	}
	if whole != nil && whole == p.current && len(usable) > 0 {
		p.current = usable[p.o.Rand(int64(len(usable)))] // not all clients the same one
	}
	p.removeIf(func(m *member) (string, bool) {
		known := slices.ContainsFunc(n.addrs, func(a netip.Addr) bool { return n.endpoint(a) == m.addr })
		return n.host + " has other addresses now", m.name == n && !known
	})
}

// removeIf ends the endpoints that gone names a reason for. Under p.mu.
func (p *Pool) removeIf(gone func(m *member) (why string, gone bool)) {
	p.members = slices.DeleteFunc(p.members, func(m *member) bool {
		why, gone := gone(m)
		if !gone {
			return false
		}
		if !m.shadowed {
			p.decide(dcs.EndpointEvent{Change: dcs.Removed, From: m.addr, Reason: why})
		}
		m.out, m.gone, m.why = true, true, why
		p.drop(m)
		return true
	})
	p.regroup()
}

// lookSoon asks the names again within a short time. Under p.mu.
func (p *Pool) lookSoon(now time.Duration) {
	p.lookAt = min(p.lookAt, now+p.jitter(p.o.ProbeInterval))
}

// lookDue begins the lookups that are due, and returns when the next ones are.
// Under p.mu.
func (p *Pool) lookDue(now time.Duration) time.Duration {
	if p.lookAt <= now {
		p.lookAt = now + p.o.TopologyInterval/2 + p.jitter(p.o.TopologyInterval)
		p.lookAll()
	}
	return p.lookAt
}
