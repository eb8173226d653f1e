package transport

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/raft"

	"github.com/holdfast-dcs/holdfast/internal/listener"
	"github.com/holdfast-dcs/holdfast/keepalive"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/logging"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
)

const (
	// leastDial and mostDial bound the time of a dial and its handshakes.
	leastDial = 500 * time.Millisecond
	mostDial  = 3 * time.Second
	// dialRoundTrips is the number that a dial takes: one round trip to connect, one for
	// the hello, and one to spare for a name to be resolved or a slow machine.
	// TLS takes tlsRoundTrips more.
	dialRoundTrips = 3
	tlsRoundTrips  = 1
	// closeBound is how long close waits for goroutines to end.
	closeBound = 2 * time.Second
)

// Network holds the connections of one node. Raft's traffic and calls between
// nodes arrive at one listen address. It is safe for concurrent use.
type Network struct {
	config  Options
	log     *slog.Logger
	ln      *keepalive.Listener
	self    string
	mu      sync.Mutex
	hello   Hello               // under mu, once nodes connect
	seen    map[disk.Life]Start // under mu: of the cluster's nodes
	nodes   atomic.Pointer[func() map[string]string]
	creds   *credentials // nil without TLS
	dialer  *keepalive.Dialer
	timeout time.Duration // of a dial or an accepted handshake
	reg     *registry
	admit   *admission
	load    *load
	clients *load // their connections and calls
	served  atomic.Uint64
	raft    atomic.Pointer[raftStream] // nil while Raft does not run
	calls   *callClient
	handler atomic.Pointer[Handler]
	forward atomic.Pointer[ClientHandler]
	setup   atomic.Pointer[SetupHandler]
	cancel  context.CancelFunc // ends calls being answered
	refused *logging.Repeats
	outcast refusals
	closing sync.Once
	closed  error
}

// New listens at once and accepts connections. Calls are refused until Serve, and
// Raft's connections until OpenRaft. The error is an [OptionsError] if an operator
// must correct the settings.
func New(o Options) (*Network, error) {
	n := &Network{
		config:  o,
		log:     logging.Quiet(o.Logger),
		self:    o.Advertise,
		hello:   Hello{version: wireVersion, cluster: o.Cluster, Level: state.Level, ID: o.ID},
		seen:    map[disk.Life]Start{},
		timeout: dialTime(o),
		reg:     newRegistry(),
		admit:   newAdmission(descriptorLimit()),
		refused: logging.NewRepeats(maxPeerLines),
	}
	n.load = newLoad(min(n.admit.most, maxNodeConns))
	n.clients = newClientLoad(descriptorLimit())
	n.UseNodes(func() map[string]string { return o.Peers })
	n.dialer = &keepalive.Dialer{Config: o.Keepalive, Base: &net.Dialer{ControlContext: n.mayDial}, Logger: n.log}
	n.dialer.Base.SetMultipathTCP(false) // it knows no user timeout
	n.calls = newCallClient(func(ctx context.Context, addr string) (*trackedConn, error) { return n.dial(ctx, KindCall, addr) }, n.reg.spawn)
	if err := n.listen(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	n.reg.spawn(func() { n.acceptAll(ctx) })
	return n, nil
}

// dialTime returns the time that a dial, or the handshake of an accepted connection, may
// take. Raft cannot follow a leader whose round trip is longer than the
// heartbeat timeout, so wherever it can, a dial has the time that it needs.
func dialTime(o Options) time.Duration {
	trips := dialRoundTrips
	if o.TLS != nil {
		trips += tlsRoundTrips
	}
	return min(max(time.Duration(trips)*o.HeartbeatTimeout, leastDial), mostDial)
}

func (n *Network) listen() error {
	if n.config.TLS != nil {
		var err error
		n.creds, err = newCredentials(*n.config.TLS, n.config.certName(n.config.ID, n.config.Advertise), func(msg string, err error) { n.log.Warn(msg, "error", err) })
		if err != nil {
			return err
		}
	}
	ln, err := keepalive.Listen(context.Background(), "tcp", n.config.Listen, n.config.Keepalive)
	if err != nil {
		return listenError(n.config.Listen, err)
	}
	tcp, ok := ln.Addr().(*net.TCPAddr)
	if !ok || (!n.allowsPlaintext() && !tcp.IP.IsLoopback()) {
		ln.Close()
		return unusable("Listen %q is %v, beyond loopback, and TLS is not set: set TLS, use 127.0.0.1, or set PlaintextBeyondLoopback", n.config.Listen, ln.Addr())
	}
	if host, port, err := net.SplitHostPort(n.self); err == nil && port == "0" {
		n.self = net.JoinHostPort(host, fmt.Sprint(tcp.Port))
	}
	n.ln = ln.(*keepalive.Listener) // as Listen's documentation says
	return nil
}

// listenError adds the remedy to the error of a failed listen.
func listenError(addr string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("Listen %s: the port is in use: end the process that has it (ss -ltnp names it; perhaps this node runs already) or set Listen to a free port: %w", addr, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return unusable("Listen %s: no address of this machine: set Listen to one (ip addr lists them) and Advertise to the one the others use: %w", addr, err)
	case errors.Is(err, syscall.EACCES):
		return unusable("Listen %s: not permitted: use a port from 1024 on: %w", addr, err)
	}
	return fmt.Errorf("Listen %s: %w", addr, err)
}

// allowsPlaintext reports whether bytes may leave the machine's loopback.
func (n *Network) allowsPlaintext() bool { return n.creds != nil || n.config.PlaintextBeyondLoopback }

// mayDial refuses to send plaintext beyond loopback, for any address that a name resolved
// to.
func (n *Network) mayDial(_ context.Context, _, address string, _ syscall.RawConn) error {
	if n.allowsPlaintext() {
		return nil
	}
	return isLoopback(KindCall, address)
}

// isLoopback returns an error unless address, whose host is an IP address, stays
// on this machine.
func isLoopback(k Kind, address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		_, refused := k.refused()
		return fmt.Errorf("%w: %s is beyond loopback and TLS is not set: set TLS or PlaintextBeyondLoopback", refused, address)
	}
	return nil
}

// Addr returns the address that the other nodes reach this node at.
func (n *Network) Addr() string { return n.self }

// OpenRaft returns the layer that a new Raft transport dials and accepts through. The
// caller must have closed the one before.
func (n *Network) OpenRaft() raft.StreamLayer {
	s := newRaftStream(n)
	n.raft.Store(s)
	return s
}

// Greeting returns the hello that this node sends now.
func (n *Network) Greeting() Hello {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.hello
}

// ServerID returns the name of this node's data among the servers.
func (n *Network) ServerID() raft.ServerID {
	h := n.Greeting()
	return ServerID(h.ID, h.Life)
}

// Become changes the hello of this node and drops every connection that was made
// with the one before.
func (n *Network) Become(change func(*Hello)) {
	n.mu.Lock()
	change(&n.hello)
	n.mu.Unlock()
	n.closeConns()
}

// establish registers a connection whose hello is through, unless this node has
// become another server since.
func (n *Network) establish(conn net.Conn, k Kind, own, peer Hello, dialled bool) (*trackedConn, error) {
	t, err := n.reg.track(conn, k, peer, dialled)
	if err == nil && n.Greeting() != own {
		t.Close()
		return nil, errOtherLife
	}
	return t, err
}

// Serve starts answering calls with h, which replaces the handler before.
func (n *Network) Serve(h Handler) { n.handler.Store(&h) }

// closeConns drops every connection, dialled and accepted, and every dial and
// handshake under way. Calls under way end unclear.
func (n *Network) closeConns() { n.reg.endAll(nil) }

// Gate closes the connections of a kind and refuses new ones, in both directions,
// until it is called with a nil reason. A leader whose disk hangs must fall silent
// on open connections too, because its followers keep a leader that only refuses
// new messages.
func (n *Network) Gate(k Kind, reason error) {
	n.reg.setGate(k, reason)
	if reason != nil {
		n.reg.endAll(func(e *registered) bool { return e.kind == k })
	}
}

// Close ends everything. It is idempotent, returns within 2 s and reports the connections that
// did not end by then.
func (n *Network) Close() error {
	n.closing.Do(func() {
		n.handler.Store(nil)
		n.forward.Store(nil)
		n.cancel()                        // before the listener ends, so that its error is expected
		_ = listener.Close(n.ln.Listener) // at once, also while this process starts another one
		if s := n.raft.Load(); s != nil {
			s.stop()
		}
		n.reg.close()
		ended := make(chan struct{})
		go func() {
			n.reg.wg.Wait()
			close(ended)
		}()
		timer := time.NewTimer(closeBound)
		defer timer.Stop()
		select {
		case <-ended:
		case <-timer.C:
			n.closed = fmt.Errorf("calls being answered did not end within %v of the close", closeBound)
		}
	})
	return n.closed
}

// dial connects to a node and makes the handshakes. The address may name the
// life that must answer, as ServerAddr does. An error means that nothing but
// the handshakes was sent.
func (n *Network) dial(ctx context.Context, k Kind, addr string) (*trackedConn, error) {
	return n.dialNode(ctx, k, addr, n.nodeAt(PlainAddr(addr)))
}

// dialNode is dial with the name of the node that must answer, "" if any may.
func (n *Network) dialNode(ctx context.Context, k Kind, addr, want string) (*trackedConn, error) {
	ctx, cancel := context.WithTimeout(ctx, n.timeout)
	defer cancel()
	leave, err := n.reg.enter(k, cancel, nil)
	if err != nil {
		return nil, err
	}
	defer leave()
	own := n.Greeting()
	addr, own.wanted = splitAddr(addr)
	// The name is resolved again at every dial.
	raw, err := n.dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	conn, peer, err := n.introduce(ctx, raw, k, addr, want, own)
	if k != KindSetup || err != nil { // setup is for nodes that refuse each other, too
		n.outcast.dialled(addr, err)
	}
	if err := cmp.Or(err, ctx.Err()); err != nil {
		raw.Close()
		return nil, fmt.Errorf("%s: %w", addr, err)
	}
	n.proven(peer.ID, raw)
	n.see(k, peer)
	own.wanted = disk.Life{}
	return n.establish(conn, k, own, peer, true)
}

// proven notes where a node of the cluster is.
func (n *Network) proven(peer string, conn net.Conn) {
	if id := n.owner(peer); id != "" {
		n.admit.proven(id, conn.RemoteAddr())
	}
}

// see notes the start of a node of the cluster. On a setup connection it may be one
// that is not durable yet.
func (n *Network) see(k Kind, peer Hello) {
	if k == KindSetup || n.owner(peer.ID) == "" {
		return
	}
	if peer.Life.IsZero() {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if s := n.seen[peer.Life]; peer.Starts > s.Starts {
		n.seen[peer.Life] = Start{Starts: peer.Starts, Boot: peer.Boot}
	}
}

// older reports whether a later start of a node's data was seen, or another
// process of the same start.
func (n *Network) older(peer Hello) bool {
	s := n.Seen(peer.Life)
	return peer.Starts < s.Starts || peer.Starts == s.Starts && s.Boot != peer.Boot
}

// Seen returns the newest start of a life on which a node of the cluster connected, zero
// if there is none.
func (n *Network) Seen(life disk.Life) Start {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.seen[life]
}

// owner returns the name under which a node's connections and calls are
// counted: its own if it is a node of the cluster, else "".
func (n *Network) owner(peer string) string {
	if (*n.nodes.Load())()[peer] == "" {
		return ""
	}
	return peer
}

func (n *Network) introduce(ctx context.Context, raw net.Conn, k Kind, addr, want string, own Hello) (net.Conn, Hello, error) {
	defer boundBy(ctx, raw)()
	conn := raw
	if n.creds != nil {
		name := n.config.certName(want, addr)
		t := tls.Client(raw, n.creds.client(name, k, own.version))
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, Hello{}, explainTLS(k, err)
		}
		conn = t
	}
	peer, err := own.greet(conn, k, want)
	if err == nil && want == "" {
		err = n.provesID(conn, k, peer.ID)
	}
	if n.creds != nil && err != nil && !errors.Is(err, ErrPeerRefused) {
		// A client of TLS 1.3 learns that its certificate is refused only when
		// it reads for the first time.
		err = explainTLS(k, err)
	}
	if err == nil && k != KindSetup && n.older(peer) {
		err = fmt.Errorf("%w: a later start of node %q with the same data was seen: it is an older copy", ErrPeerRefused, peer.ID)
	}
	return conn, peer, err
}

// boundBy makes ctx end I/O on conn; the returned function lifts that. The caller that
// finds ctx ended after it must drop the connection.
func boundBy(ctx context.Context, conn net.Conn) (lift func()) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}
