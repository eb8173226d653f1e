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

// An endpoint has one of two forms. "host:port" is an IP address, or a name with one
// address. "host/ip:port" is one address of a name that has several, or once had.

// Host returns the host of an endpoint. TLS must verify this name.
func Host(endpoint string) string {
	host, _, err := net.SplitHostPort(HostPort(endpoint))
	if err != nil {
		return endpoint
	}
	return host
}

// SocketScheme precedes the path of an endpoint that is a local socket.
const SocketScheme = "unix://"

func isSocket(endpoint string) bool { return strings.HasPrefix(endpoint, SocketScheme) }

// HostPort returns host:port of an endpoint, without the resolved address.
func HostPort(endpoint string) string {
	host, address, several := strings.Cut(endpoint, "/")
	if !several || isSocket(endpoint) {
		return endpoint
	}
	_, port, _ := net.SplitHostPort(address) // name.endpoint has joined it
	return net.JoinHostPort(host, port)
}

// LookupFunc returns all addresses of a host. It must return when ctx is done.
type LookupFunc func(ctx context.Context, host string) ([]netip.Addr, error)

// LookupBy returns a LookupFunc that queries r for A and AAAA records. If r is nil,
// it uses the system's resolver.
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

	addrs   []netip.Addr // from the last successful lookup; nil before
	several bool         // it has or had several addresses, and each is an endpoint
	err     error        // of the last lookup
	looking bool
	looked  chan struct{} // closed when the lookup in flight ends
}

func (n *name) endpoint(addr netip.Addr) string {
	return n.host + "/" + net.JoinHostPort(addr.String(), n.port)
}

// newName returns the name of an endpoint. It returns nil if the host is an address
// or names are not looked up.
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
	// errSeveral ends the dial of a name for which a lookup has found several
	// addresses. Each has become an endpoint.
	errSeveral   = errors.New("host name has several addresses: each is a separate endpoint now")
	errNoAddress = errors.New("host name has no address")
)

// Address returns the ip:port to dial for an endpoint. It waits for a lookup only
// while no address of the host is known, and no longer than ctx. A resolver that
// fails therefore does not make a known address unusable.
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
		p.lookUp(n)
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

// SeedEndpoints returns the endpoints of a seed: one, or one for each address of its
// name. It waits for a lookup as [Pool.Address] does.
func (p *Pool) SeedEndpoints(ctx context.Context, seed string) []string {
	_, _ = p.Address(ctx, seed) // only for the lookup
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, m := range p.members {
		if m.seed && HostPort(m.addr) == seed {
			out = append(out, m.addr)
		}
	}
	return out
}

// lookUpAll starts a lookup of every name. Under p.mu.
func (p *Pool) lookUpAll() {
	for _, n := range p.names {
		p.lookUp(n)
	}
}

// lookUp starts a lookup of n, unless one is in flight. Under p.mu.
func (p *Pool) lookUp(n *name) {
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
	defer p.unlock()
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
		p.reselect()
	}
	p.wakeUp()
}

// resolved applies the addresses that a lookup of n has returned. Under p.mu.
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

// moved resets the state of m after the address of its name has changed. Under p.mu.
func (p *Pool) moved(m *member) {
	p.drop(m)
	m.id, m.lat, m.leads, m.failures, m.doubtAt = "", [classes]latency{}, false, 0, 0
	m.proven, m.pause, m.probeAt = 0, p.o.ProbeInterval, p.now()
	p.regroup()
}

// split makes each address of n an endpoint, and removes the endpoints of addresses
// that n no longer has. An address that is found later is ejected until probes
// succeed, as every endpoint is that was not configured. Under p.mu.
func (p *Pool) split(n *name, before []netip.Addr) {
	whole := p.find(n.label) // the endpoint of n before n had several addresses
	var usable []*member
	for _, addr := range n.addrs {
		label := n.endpoint(addr)
		if p.find(label) != nil {
			continue
		}
		m := &member{addr: label, name: n, seed: n.seed, pause: p.o.ProbeInterval}
		switch {
		case whole == nil || len(before) > 0 && !slices.Contains(before, addr):
			m.ejected = p.o.Probe != nil
		case len(before) == 0:
			m.ejected, m.id = whole.ejected && !n.seed, whole.id
		default: // the address that calls were sent to
			m.ejected, m.lat, m.leads, m.id = whole.ejected, whole.lat, whole.leads, whole.id
		}
		if m.ejected {
			m.why = "new endpoint, not probed yet"
		} else {
			usable = append(usable, m)
		}
		p.add(m)
		p.report(dcs.EndpointEvent{Change: dcs.Added, From: label, Reason: "address of " + n.host})
	}
	if whole != nil && whole == p.current && len(usable) > 0 {
		p.current = usable[p.o.Rand(int64(len(usable)))] // so that clients spread over the addresses
	}
	p.removeIf(func(m *member) (string, bool) {
		known := slices.ContainsFunc(n.addrs, func(a netip.Addr) bool { return n.endpoint(a) == m.addr })
		return "no longer an address of " + n.host, m.name == n && !known
	})
}

// removeIf removes the endpoints for which gone reports true, with its reason.
// Under p.mu.
func (p *Pool) removeIf(gone func(m *member) (why string, gone bool)) {
	p.members = slices.DeleteFunc(p.members, func(m *member) bool {
		why, gone := gone(m)
		if !gone {
			return false
		}
		if !m.shadowed {
			p.report(dcs.EndpointEvent{Change: dcs.Removed, From: m.addr, Reason: why})
		}
		m.ejected, m.gone, m.why = true, true, why
		p.drop(m)
		return true
	})
	p.regroup()
}

// scheduleLookups schedules a lookup of all names within a ProbeInterval. Under p.mu.
func (p *Pool) scheduleLookups(now time.Duration) {
	p.lookAt = min(p.lookAt, now+p.jitter(p.o.ProbeInterval))
}

// runDueLookups starts the lookups that are due, and returns when the next ones are due.
// Under p.mu.
func (p *Pool) runDueLookups(now time.Duration) time.Duration {
	if p.lookAt <= now {
		p.lookAt = now + p.o.TopologyInterval/2 + p.jitter(p.o.TopologyInterval)
		p.lookUpAll()
	}
	return p.lookAt
}
