package raftstore

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

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/keepalive"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
)

const (
	// leastDial and mostDial bound what a dial and its handshakes may take.
	leastDial = 500 * time.Millisecond
	mostDial  = 3 * time.Second
	// dialRoundTrips is what a dial takes: one round trip to connect, one for
	// the hello, and one to spare for a name to be resolved or a slow machine.
	// TLS takes tlsRoundTrips more.
	dialRoundTrips = 3
	tlsRoundTrips  = 1
	// closeBound is how long close waits for goroutines to end.
	closeBound = 2 * time.Second
)

// network is one node's connections: one listen address on which Raft's
// traffic and calls between nodes arrive. It knows nothing of the state that
// the node keeps.
type network struct {
	config  Config
	log     *slog.Logger
	ln      net.Listener
	self    string
	mu      sync.Mutex
	hello   hello                   // under mu, once nodes connect
	seen    map[disk.Life]seenStart // under mu: of the nodes in Peers
	peers   map[string]string       // address to ID
	creds   *credentials            // nil without TLS
	dialer  *keepalive.Dialer
	timeout time.Duration // of a dial or an accepted handshake
	reg     *registry
	admit   *admission
	load    *load
	raft    atomic.Pointer[raftStream] // nil while Raft does not run
	calls   *callClient
	handler atomic.Pointer[callHandler]
	tap     atomic.Pointer[tapFunc]
	setup   atomic.Pointer[setupHandler]
	cancel  context.CancelFunc // ends calls being answered
	refused *repeats
	outcast refusals
	closing sync.Once
	closed  error
}

// newNetwork listens at once and accepts connections; calls are refused until
// serve, and Raft's until openRaft.
func newNetwork(c Config) (*network, error) {
	keep, _ := keepalive.Derive(c.Timing.TTL, c.Timing.LoopWait)
	n := &network{
		config:  c,
		log:     quietLogger(c.Logger),
		self:    c.Advertise,
		hello:   hello{version: wireVersion, cluster: newClusterID(c.Root, c.memberIDs()), id: c.ID},
		peers:   map[string]string{},
		seen:    map[disk.Life]seenStart{},
		timeout: dialTime(c),
		reg:     newRegistry(),
		admit:   newAdmission(descriptorLimit()),
		refused: newRepeats(maxPeerLines),
	}
	n.load = newLoad(min(n.admit.most, maxNodeConns))
	for _, p := range c.Peers {
		n.peers[p.Addr] = p.ID
	}
	n.dialer = &keepalive.Dialer{Config: keep, Base: &net.Dialer{ControlContext: n.mayDial}, Logger: n.log}
	n.dialer.Base.SetMultipathTCP(false) // it knows no user timeout
	n.calls = newCallClient(n)
	if err := n.listen(keep); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	n.reg.spawn(func() { n.acceptAll(ctx) })
	return n, nil
}

// dialTime returns what a dial, or the handshake of an accepted connection, may
// take. Raft cannot follow a leader whose round trip is longer than the
// heartbeat timeout, so wherever it can, a dial has the time that it needs.
func dialTime(c Config) time.Duration {
	trips := dialRoundTrips
	if c.TLS != nil {
		trips += tlsRoundTrips
	}
	return min(max(time.Duration(trips)*c.HeartbeatTimeout, leastDial), mostDial)
}

func (n *network) listen(keep keepalive.Config) error {
	if n.config.TLS != nil {
		var err error
		n.creds, err = newCredentials(*n.config.TLS, n.config.certName(n.config.ID), func(msg string, err error) { n.log.Warn(msg, "error", err) })
		if err != nil {
			return err
		}
	}
	ln, err := keepalive.Listen(context.Background(), "tcp", n.config.Listen, keep)
	if err != nil {
		return listenError(n.config.Listen, err)
	}
	tcp, ok := ln.Addr().(*net.TCPAddr)
	if !ok || (!n.mayPlain() && !tcp.IP.IsLoopback()) {
		ln.Close()
		return invalid("Listen %q is %v, beyond loopback, and TLS is not set: set TLS, use 127.0.0.1, or set PlaintextBeyondLoopback", n.config.Listen, ln.Addr())
	}
	if host, port, err := net.SplitHostPort(n.self); err == nil && port == "0" {
		n.self = net.JoinHostPort(host, fmt.Sprint(tcp.Port))
	}
	n.ln = ln
	return nil
}

// listenError says what an operator can do about a failed listen.
func listenError(addr string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return openError(dcs.ErrUnavailable, "Listen %s: the port is in use: end the process that has it (ss -ltnp names it; perhaps this node runs already) or set Listen to a free port: %w", addr, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return invalid("Listen %s: no address of this machine: set Listen to one (ip addr lists them) and Advertise to the one the others use: %w", addr, err)
	case errors.Is(err, syscall.EACCES):
		return invalid("Listen %s: not permitted: use a port from 1024 on: %w", addr, err)
	}
	return openError(dcs.ErrUnavailable, "Listen %s: %w", addr, err)
}

// mayPlain reports whether bytes may leave the machine's loopback.
func (n *network) mayPlain() bool { return n.creds != nil || n.config.PlaintextBeyondLoopback }

// mayDial refuses to send plaintext beyond loopback, whatever a name resolved
// to.
func (n *network) mayDial(_ context.Context, _, address string, _ syscall.RawConn) error {
	if n.mayPlain() {
		return nil
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("%w: %s is beyond loopback and TLS is not set: set TLS or PlaintextBeyondLoopback", errPeerRefused, address)
	}
	return nil
}

// addr returns the address the others reach this node at.
func (n *network) addr() string { return n.self }

// openRaft returns what a new Raft transport dials and accepts through. The one
// before must be closed.
func (n *network) openRaft() raft.StreamLayer {
	s := newRaftStream(n)
	n.raft.Store(s)
	return s
}

// ServerAddr returns the address of a server: that of its node as Peers has it,
// so that a changed address in the settings counts, not the one in an old log
// entry, and its life. It makes the network a raft.ServerAddressProvider.
func (n *network) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	node, life := splitServer(id)
	addr := n.config.peerAddr(node)
	if addr == "" && node == n.config.ID {
		addr = n.self
	}
	if addr == "" {
		return "", fmt.Errorf("node %q is not in Peers", node)
	}
	return raft.ServerAddress(lifeAddr(addr, life)), nil
}

// greeting returns who this node is now.
func (n *network) greeting() hello {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.hello
}

// serverID returns the name of this node's data among the servers.
func (n *network) serverID() raft.ServerID {
	h := n.greeting()
	return serverID(h.id, h.life)
}

// become changes who this node is and drops every connection on which it was
// somebody else.
func (n *network) become(change func(*hello)) {
	n.mu.Lock()
	change(&n.hello)
	n.mu.Unlock()
	n.closeConns()
}

// establish registers a connection whose hello is through, unless this node has
// become somebody else since.
func (n *network) establish(conn net.Conn, k kind, own, peer hello, dialled bool) (*trackedConn, error) {
	t, err := n.reg.track(conn, k, peer, dialled)
	if err == nil && n.greeting() != own {
		t.Close()
		return nil, errOtherLife
	}
	return t, err
}

// serve starts answering calls with h.
func (n *network) serve(h callHandler) { n.handler.Store(&h) }

// closeConns drops every connection, dialled and accepted, and every dial and
// handshake under way. Calls under way end unclear.
func (n *network) closeConns() { n.reg.endAll(nil) }

// gate closes the connections of a kind and refuses new ones, in both
// directions, while reason is not nil; nil lets them in again. A leader whose
// disk hangs falls silent so, on connections that are open already too: refusing
// new messages leaves its followers content.
func (n *network) gate(k kind, reason error) {
	n.reg.setGate(k, reason)
	if reason != nil {
		n.reg.endAll(func(e *registered) bool { return e.kind == k })
	}
}

// close ends everything. It returns within closeBound and names what did not
// end by then.
func (n *network) close() error {
	n.closing.Do(func() {
		n.ln.Close()
		n.handler.Store(nil)
		n.cancel()
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
func (n *network) dial(ctx context.Context, k kind, addr string) (*trackedConn, error) {
	ctx, cancel := context.WithTimeout(ctx, n.timeout)
	defer cancel()
	leave, err := n.reg.enter(k, cancel, nil)
	if err != nil {
		return nil, err
	}
	defer leave()
	own := n.greeting()
	addr, own.wanted = splitAddr(addr)
	// The name is resolved anew at every dial.
	raw, err := n.dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	conn, peer, err := n.introduce(ctx, raw, k, addr, own)
	if k != kindSetup || err != nil { // setup is for nodes that refuse each other, too
		n.outcast.dialled(addr, err)
	}
	if err := cmp.Or(err, ctx.Err()); err != nil {
		raw.Close()
		return nil, fmt.Errorf("%s: %w", addr, err)
	}
	n.proven(peer.id, raw)
	n.see(k, peer)
	own.wanted = disk.Life{}
	return n.establish(conn, k, own, peer, true)
}

// proven notes where a node of the cluster is.
func (n *network) proven(peer string, conn net.Conn) {
	if id := n.owner(peer); id != "" {
		n.admit.proven(id, conn.RemoteAddr())
	}
}

// see notes the start of a node of Peers. On a setup connection it may be one
// that is not durable yet.
func (n *network) see(k kind, peer hello) {
	if k == kindSetup || n.owner(peer.id) == "" {
		return
	}
	if peer.life.IsZero() {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if s := n.seen[peer.life]; peer.starts > s.Starts {
		n.seen[peer.life] = seenStart{Starts: peer.starts, Boot: peer.boot}
	}
}

// older reports whether a later start of a node's data was seen, or another
// process of the same start.
func (n *network) older(peer hello) bool {
	s := n.seenStart(peer.life)
	return peer.starts < s.Starts || peer.starts == s.Starts && s.Boot != peer.boot
}

// seenStart returns the newest start of a life that was seen.
func (n *network) seenStart(life disk.Life) seenStart {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.seen[life]
}

// owner returns the name under which a node's connections and calls are
// counted: its own if it is in Peers, else "".
func (n *network) owner(peer string) string {
	if n.config.peerAddr(peer) == "" {
		return ""
	}
	return peer
}

func (n *network) introduce(ctx context.Context, raw net.Conn, k kind, addr string, own hello) (net.Conn, hello, error) {
	defer boundBy(ctx, raw)()
	conn, want := raw, n.peers[addr]
	if n.creds != nil {
		name, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, hello{}, err
		}
		if want != "" {
			name = n.config.certName(want)
		}
		t := tls.Client(raw, n.creds.client(name, k, own.version))
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, hello{}, explainTLS(err)
		}
		conn = t
	}
	peer, err := own.greet(conn, k, want)
	if err == nil {
		err = n.config.provesID(conn, peer.id)
	}
	if n.creds != nil && err != nil && !errors.Is(err, errPeerRefused) {
		// TLS 1.3 tells a client that its certificate is refused only when
		// it reads for the first time.
		err = explainTLS(err)
	}
	if err == nil && k != kindSetup && n.older(peer) {
		err = fmt.Errorf("%w: a later start of node %q with the same data was seen: it is an older copy", errPeerRefused, peer.id)
	}
	return conn, peer, err
}

// boundBy makes ctx end I/O on conn; the returned function lifts that. Whoever
// finds ctx ended after it must drop the connection.
func boundBy(ctx context.Context, conn net.Conn) (lift func()) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}

// pause waits for d or for the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// quietLogger returns l, or one that discards everything.
func quietLogger(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}
