package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
)

const (
	// leastUnproven and mostUnproven bound the accepted connections whose
	// hello is not through, within an eighth of the process's descriptors. The
	// rest is for the disk, for the other nodes and for the program around.
	leastUnproven = 8
	mostUnproven  = 128
	// helloBytes bounds the bytes that an accepted connection may send before its hello
	// is through: a TLS handshake with a chain of certificates, and the hello.
	helloBytes = 64 << 10
)

// errCrowded refuses a connection while too many others have not proven which node
// they are.
var errCrowded = errors.New("too many connections are waiting for their handshake")

// admission bounds the accepted connections that are not authenticated, in all
// and for each remote address. Addresses of the other nodes have places of
// their own, so that a crowd of other hosts never keeps a node out.
type admission struct {
	most, perHost int

	// Handshakes of hosts that are no node's, and of those that are, compute in turns:
	// a crowd of them kept the processors from Raft for longer than a heartbeat
	// timeout.
	otherHosts, nodeHosts turns

	mu      sync.Mutex
	places  []*place              // the oldest first
	waiting int                   // those from hosts that are no node's
	byHost  map[netip.Prefix]int  // connections of each host
	nodes   map[string]netip.Addr // where each node was last proven to be
}

// newAdmission returns the bounds for a process that may have that many
// descriptors; 0 is an unknown number.
func newAdmission(descriptors uint64) *admission {
	most := mostUnproven
	if descriptors > 0 {
		most = int(min(max(descriptors/8, leastUnproven), mostUnproven))
	}
	at := max(1, runtime.GOMAXPROCS(0)/2)
	return &admission{
		most: most, perHost: most / 2,
		otherHosts: make(turns, at), nodeHosts: make(turns, at),
		byHost: map[netip.Prefix]int{}, nodes: map[string]netip.Addr{},
	}
}

// A place is held by an accepted connection until it is proven.
type place struct {
	conn    net.Conn
	host    netip.Prefix
	isOther bool
	quiet   bool // nothing has come from it yet
}

// enter takes a place for conn. If there is none, crowded says why, and the
// caller must close gone. That is the connection that has been silent for the
// longest time, because a node speaks at once; without such a connection it is
// conn, and p is nil.
func (a *admission) enter(conn net.Conn) (p *place, gone net.Conn, crowded error) {
	from := hostOf(conn.RemoteAddr())
	p = &place{conn: conn, host: networkOf(from), quiet: true}
	a.mu.Lock()
	defer a.mu.Unlock()
	p.isOther = !a.isNode(from)
	switch {
	case a.byHost[p.host] >= a.perHost:
		crowded = fmt.Errorf("%w: %d from this address", errCrowded, a.perHost)
	case p.isOther && a.waiting >= a.most:
		crowded = fmt.Errorf("%w: %d in all", errCrowded, a.most)
	}
	if crowded != nil {
		oldest := a.oldestQuiet(p)
		if oldest == nil {
			return nil, conn, crowded
		}
		a.remove(oldest)
		gone = oldest.conn
	}
	a.places = append(a.places, p)
	a.byHost[p.host]++
	if p.isOther {
		a.waiting++
	}
	return p, gone, crowded
}

// oldestQuiet returns the place that makes room for p, or nil.
func (a *admission) oldestQuiet(p *place) *place {
	sameHost := a.byHost[p.host] >= a.perHost
	for _, other := range a.places {
		if other.quiet && (sameHost && other.host == p.host || !sameHost && other.isOther) {
			return other
		}
	}
	return nil
}

// turns returns those of p's handshake.
func (a *admission) turns(p *place) turns {
	if p.isOther {
		return a.otherHosts
	}
	return a.nodeHosts
}

// leave gives p back. It may be called twice.
func (a *admission) leave(p *place) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.remove(p)
}

func (a *admission) remove(p *place) {
	at := slices.Index(a.places, p)
	if at < 0 {
		return
	}
	a.places = slices.Delete(a.places, at, at+1)
	if a.byHost[p.host]--; a.byHost[p.host] == 0 {
		delete(a.byHost, p.host)
	}
	if p.isOther {
		a.waiting--
	}
}

// spoke notes that something came from p's connection.
func (a *admission) spoke(p *place) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p.quiet = false
}

func (a *admission) isNode(from netip.Addr) bool {
	for _, addr := range a.nodes {
		if addr == from {
			return true
		}
	}
	return false
}

// proven notes where the node named id is. The caller knows that id is one of
// the cluster's, so that they are few.
func (a *admission) proven(id string, remote net.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.nodes[id] = hostOf(remote)
}

// hostOf returns remote without its port, the zero Addr if it is no IP
// address.
func hostOf(remote net.Addr) netip.Addr {
	tcp, ok := remote.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return tcp.AddrPort().Addr().Unmap().WithZone("")
}

// networkOf returns the network that one host can choose addresses from: the address
// itself, or the /64 network of an IPv6 address.
func networkOf(host netip.Addr) netip.Prefix {
	bits := host.BitLen()
	if host.Is6() {
		bits = 64
	}
	p, err := host.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// turns bounds how many goroutines compute at once.
type turns chan struct{}

func (t turns) take(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (t turns) give() { <-t }

// helloConn is an accepted connection that may send helloBytes until lift is
// called. It calls spoke when the first of them came. After each Read the caller
// has a turn until the next one.
type helloConn struct {
	net.Conn
	ctx    context.Context //nolint:containedctx // it is the handshake's
	turns  turns
	spoke  func()
	left   int
	turn   bool // the caller has a turn
	lifted bool
}

func (c *helloConn) Read(b []byte) (int, error) {
	if c.lifted {
		return c.Conn.Read(b)
	}
	if c.left == 0 {
		return 0, fmt.Errorf("%w: more than %d bytes came before the hello was through", ErrPeerRefused, helloBytes)
	}
	c.rest()
	n, err := c.Conn.Read(b[:min(len(b), c.left)])
	if n > 0 && c.left == helloBytes {
		c.spoke()
	}
	c.left -= n
	if err == nil {
		err = c.turns.take(c.ctx)
		c.turn = err == nil
	}
	return n, err
}

// rest gives the turn back, if there is one.
func (c *helloConn) rest() {
	if c.turn {
		c.turn = false
		c.turns.give()
	}
}

// lift ends the bounds. The goroutine that reads the hello calls it.
func (c *helloConn) lift() {
	c.rest()
	c.lifted = true
}

// NetConn returns the wrapped connection, for keepalive to find the socket.
func (c *helloConn) NetConn() net.Conn { return c.Conn }
