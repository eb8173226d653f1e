package transport

import (
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"

	"github.com/holdfast-dcs/holdfast/keepalive"
)

// errNetworkClosed is the cause of everything that fails because the node
// was closed.
var errNetworkClosed = errors.New("the node is closed")

// Kind is the purpose of a connection. Its value is on the wire.
type Kind byte

// The kinds of connections.
const (
	KindRaft  Kind = 1 // Raft's own traffic
	KindCall  Kind = 2 // calls between nodes
	KindSetup Kind = 3 // founding and joining; the nodes need not be members
	// KindClient is for the calls of a program that is no node. It proves no
	// node's name, and nothing on it counts as the word of a node.
	KindClient Kind = 4
)

// String returns the name of k.
func (k Kind) String() string {
	switch k {
	case KindRaft:
		return "raft"
	case KindCall:
		return "call"
	case KindSetup:
		return "setup"
	case KindClient:
		return "client"
	default:
		return "unknown"
	}
}

// registry knows every connection, dial and handshake under way and every
// goroutine of the network, so that all of them can be ended at a stroke. A
// node whose disk stalls must fall silent on connections that are open
// already too: refusing new messages leaves its followers content.
type registry struct {
	mu     sync.Mutex
	shut   map[Kind]error // why nothing new of a kind is let in
	closed bool
	next   uint64
	open   map[uint64]*registered
	wg     sync.WaitGroup
	reads  atomic.Uint64 // of all established connections; their clock
}

type registered struct {
	kind Kind // 0 for a handshake whose kind is not known yet
	end  func()
	conn *trackedConn // nil for a dial or handshake under way
}

func newRegistry() *registry {
	return &registry{shut: map[Kind]error{}, open: map[uint64]*registered{}}
}

// enter registers something that end stops, of kind k or, with 0, of one that is
// not known yet. It is refused while the gate of its kind is shut. The returned
// function takes it out again; it may be called twice.
func (r *registry) enter(k Kind, end func(), conn *trackedConn) (leave func(), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.refusal(k); err != nil {
		return nil, err
	}
	r.next++
	id := r.next
	r.open[id] = &registered{kind: k, end: end, conn: conn}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.open, id)
	}, nil
}

func (r *registry) refusal(k Kind) error {
	if r.closed {
		return errNetworkClosed
	}
	return r.shut[k]
}

// spawn runs f in a goroutine that close waits for; false means that the
// network is closed and f will not run.
func (r *registry) spawn(f func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.wg.Go(f)
	return true
}

// track registers an established connection; closing it takes it out. A
// refused connection is closed.
func (r *registry) track(conn net.Conn, k Kind, peer Hello, dialled bool) (*trackedConn, error) {
	t := &trackedConn{Conn: conn, kind: k, peer: peer.ID, hello: peer, dialled: dialled, reads: &r.reads}
	t.lastRead.Store(r.reads.Add(1))
	leave, err := r.enter(k, t.sever, t)
	if err != nil {
		conn.Close()
		return nil, err
	}
	t.leave = leave
	return t, nil
}

// setGate lets nothing new of a kind in while reason is not nil.
func (r *registry) setGate(k Kind, reason error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.shut[k] = reason
}

// endAll ends the registered connections that fit; nil fits all.
func (r *registry) endAll(fits func(*registered) bool) {
	r.mu.Lock()
	var ends []func()
	for id, e := range r.open {
		if fits == nil || fits(e) {
			ends = append(ends, e.end)
			delete(r.open, id)
		}
	}
	r.mu.Unlock()
	for _, end := range ends {
		end()
	}
}

// close ends everything, for good.
func (r *registry) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.endAll(nil)
}

// conns lists the established connections.
func (r *registry) conns() []*trackedConn {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []*trackedConn
	for _, e := range r.open {
		if e.conn != nil {
			list = append(list, e.conn)
		}
	}
	return list
}

// quietest returns the established and counted connection that fits and from
// which nothing was read for the longest time, or nil.
func (r *registry) quietest(fits func(*trackedConn) bool) *trackedConn {
	var oldest *trackedConn
	for _, t := range r.conns() {
		if t.counted.Load() && fits(t) && (oldest == nil || t.lastRead.Load() < oldest.lastRead.Load()) {
			oldest = t
		}
	}
	return oldest
}

// ConnStatus describes an established connection.
type ConnStatus struct {
	// Peer is the other node's ID.
	Peer string
	// Remote is the other end's address as the socket has it.
	Remote string
	// Kind is the name of the connection's Kind.
	Kind string
	// Dialled reports whether this node made the connection.
	Dialled bool
	// Keepalive is the socket's values, zero where the system cannot report it.
	Keepalive keepalive.Config
}

// Conns describes the established connections with other nodes.
func (n *Network) Conns() []ConnStatus {
	return n.reg.statuses(func(c *trackedConn) bool { return c.kind != KindClient })
}

func (r *registry) statuses(fits func(*trackedConn) bool) []ConnStatus {
	var list []ConnStatus
	for _, c := range r.conns() {
		if fits(c) {
			list = append(list, c.status())
		}
	}
	return list
}

// trackedConn is an established connection that the registry knows.
type trackedConn struct {
	net.Conn
	kind     Kind
	peer     string // the other node's ID, as it gave it
	hello    Hello  // with all its fields
	dialled  bool
	leave    func()
	counted  atomic.Bool    // among its node's connections; leave takes it out
	reads    *atomic.Uint64 // of all connections
	lastRead atomic.Uint64  // the value of reads after the last Read
}

// Read implements net.Conn.
func (t *trackedConn) Read(b []byte) (int, error) {
	n, err := t.Conn.Read(b)
	t.lastRead.Store(t.reads.Add(1))
	return n, err
}

// Close closes the connection and takes it out of the registry.
func (t *trackedConn) Close() error {
	t.leave()
	t.sever()
	return nil
}

// sever closes the socket itself: TLS would first say good-bye to a peer that
// perhaps does not read, and wait for seconds.
func (t *trackedConn) sever() {
	if secured, ok := t.Conn.(*tls.Conn); ok {
		secured.NetConn().Close()
		return
	}
	t.Conn.Close()
}

// NetConn returns the wrapped connection, for keepalive to find the socket.
func (t *trackedConn) NetConn() net.Conn { return t.Conn }

func (t *trackedConn) status() ConnStatus {
	s := ConnStatus{
		Peer: t.peer, Remote: t.RemoteAddr().String(), Kind: t.kind.String(), Dialled: t.dialled,
	}
	if effective, err := keepalive.Effective(t); err == nil {
		s.Keepalive = effective
	}
	return s
}
