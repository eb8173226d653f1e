package transport

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"

	"github.com/holdfast-dcs/holdfast/keepalive"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/logging"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
)

// ClientOptions describes the connections of a program that is no node.
type ClientOptions struct {
	// ID names the program in the logs of nodes. It is a name as that of a node
	// and proves nothing.
	ID string
	// Cluster must be that of the nodes.
	Cluster ClusterID
	// TLS switches mutual TLS on. CertFile needs no name. A node proves itself by
	// the host of the address that was dialled, or by its name in Names.
	TLS *TLS
	// PlaintextBeyondLoopback allows addresses beyond loopback without TLS.
	PlaintextBeyondLoopback bool
	// Keepalive holds on every connection.
	Keepalive keepalive.Config
	// DialTimeout bounds a dial and its handshakes.
	DialTimeout time.Duration
	// Address returns ip:port to dial for an address that is called. Nil means that
	// the dialer looks the host up.
	Address func(ctx context.Context, addr string) (string, error)
	// Host returns the host that a node must prove at an address that is called.
	// Nil means that the address is host:port.
	Host func(addr string) string
	// Logger receives the messages for an operator; nil means silent.
	Logger *slog.Logger
}

// Client holds the connections of a program that is no node: one to each node that
// was called. It is safe for concurrent use.
type Client struct {
	o       ClientOptions
	creds   *credentials // nil without TLS
	dialer  *keepalive.Dialer
	reg     *registry
	calls   *callClient
	outcast refusals

	mu    sync.Mutex
	hello Hello
	nodes map[string]raft.ServerID // the server that last answered, by the address that was dialled
}

// NewClient returns a Client that has dialled nobody. The error is an
// [OptionsError] if an operator must correct the settings.
func NewClient(o ClientOptions) (*Client, error) {
	log := logging.Quiet(o.Logger)
	if o.Address == nil {
		o.Address = func(_ context.Context, addr string) (string, error) { return addr, nil }
	}
	if o.Host == nil {
		o.Host = func(addr string) string { host, _, _ := net.SplitHostPort(addr); return host }
	}
	c := &Client{
		o: o, reg: newRegistry(), nodes: map[string]raft.ServerID{},
		hello: Hello{version: wireVersion, cluster: o.Cluster, Boot: rand.Uint64(), ID: o.ID, Level: state.Level}, //nolint:gosec // G404: no secret
	}
	if o.TLS != nil {
		var err error
		c.creds, err = newClientCredentials(*o.TLS, func(msg string, err error) { log.Warn(msg, "error", err) })
		if err != nil {
			return nil, err
		}
	}
	base := &net.Dialer{ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
		if c.creds != nil || o.PlaintextBeyondLoopback {
			return nil
		}
		return isLoopback(KindClient, address)
	}}
	base.SetMultipathTCP(false) // it knows no user timeout
	c.dialer = &keepalive.Dialer{Config: o.Keepalive, Base: base, Logger: log}
	c.calls = newCallClient(c.dial, c.reg.spawn)
	c.calls.hurry = true
	return c, nil
}

// Call makes one request to the node at addr and returns its reply. The callee owns
// body from then on, and the caller the reply. Call returns by the deadline of ctx,
// which travels with the request.
func (c *Client) Call(ctx context.Context, addr string, op byte, body []byte) ([]byte, error) {
	if len(body) > maxRequest {
		return nil, notSent(addr, fmt.Errorf("a request of %d bytes is above the limit of %d", len(body), maxRequest))
	}
	return c.calls.call(ctx, addr, op, body)
}

// NodeAt returns the name of the node that last answered at addr, or "".
func (c *Client) NodeAt(addr string) string { return NodeOf(c.ServerAt(addr)) }

// ServerAt returns the ID of the server that last answered at addr, or "".
func (c *Client) ServerAt(addr string) raft.ServerID {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[addr]
}

// Drop gives up the connection to addr, for a call that comes later to dial again.
// Calls under way there may go on for the grace time.
func (c *Client) Drop(addr string, grace time.Duration) {
	c.mu.Lock()
	delete(c.nodes, addr)
	c.mu.Unlock()
	c.calls.drop(addr, grace)
}

// IsConnected reports whether there is a connection to addr.
func (c *Client) IsConnected(addr string) bool { return c.calls.callee(addr).isConnected() }

// Reaches returns the addresses at which a node answers now, sorted.
func (c *Client) Reaches(node string) []string {
	var addrs []string
	for _, addr := range c.calls.connected() {
		if c.NodeAt(addr) == node {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// Exclusion returns why the nodes at all these addresses refuse this client, or are
// refused by it, else nil.
func (c *Client) Exclusion(addrs []string) error { return c.outcast.everywhere(addrs) }

// Conns describes the established connections.
func (c *Client) Conns() []ConnStatus {
	return c.reg.statuses(func(*trackedConn) bool { return true })
}

// Close ends every connection and call. It is idempotent.
func (c *Client) Close() {
	c.reg.close()
	c.calls.close() // a stream that nobody reads holds up its connection's reader
	c.reg.wg.Wait()
}

func (c *Client) greeting() Hello {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hello
}

// dial connects to a node and makes the handshakes.
func (c *Client) dial(ctx context.Context, addr string) (*trackedConn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.o.DialTimeout)
	defer cancel()
	leave, err := c.reg.enter(KindClient, cancel, nil)
	if err != nil {
		return nil, err
	}
	defer leave()
	at, err := c.o.Address(ctx, addr)
	if err != nil {
		return nil, err
	}
	raw, err := c.dialer.DialContext(ctx, "tcp", at)
	if err != nil {
		return nil, err
	}
	conn, peer, err := c.introduce(ctx, raw, addr)
	if err == nil {
		err = c.settle(addr, peer)
	}
	c.outcast.dialled(addr, err)
	if err := cmp.Or(err, ctx.Err()); err != nil {
		raw.Close()
		return nil, err
	}
	return c.reg.track(conn, KindClient, peer, true)
}

// settle takes over the incarnation from the first node that answers. Nodes of
// another one are refused from then on: their tree is another one.
func (c *Client) settle(addr string, peer Hello) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hello.differs(peer.Incarnation) {
		return c.hello.judgeClient(peer, verdictIncarnation)
	}
	c.hello.Incarnation = peer.Incarnation
	c.nodes[addr] = ServerID(peer.ID, peer.Life)
	return nil
}

// Incarnation returns the incarnation of the cluster, zero before the first
// connection.
func (c *Client) Incarnation() disk.Incarnation { return c.greeting().Incarnation }

func (c *Client) introduce(ctx context.Context, raw net.Conn, addr string) (net.Conn, Hello, error) {
	defer boundBy(ctx, raw)()
	conn := raw
	if c.creds != nil {
		t := tls.Client(raw, c.tls(c.o.Host(addr)))
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, Hello{}, explainTLS(KindClient, err)
		}
		conn = t
	}
	peer, err := c.greeting().greet(conn, KindClient, "")
	if err == nil {
		err = c.provesName(conn, addr, peer.ID)
	}
	if c.creds != nil && err != nil && !errors.Is(err, ErrPeerRefused) {
		// A client of TLS 1.3 learns that its certificate is refused only when
		// it reads for the first time.
		err = explainTLS(KindClient, err)
	}
	return conn, peer, err
}

// tls returns the configuration for dialling host. Where nodes have names of
// their own, it cannot be known before the hello which one to expect: the chain
// is verified here, and the name by provesName.
func (c *Client) tls(host string) *tls.Config {
	config := c.creds.client(host, KindClient, wireVersion)
	if len(c.o.TLS.Names) == 0 {
		return config
	}
	roots := config.RootCAs
	config.InsecureSkipVerify = true // VerifyConnection does it
	config.VerifyConnection = func(s tls.ConnectionState) error {
		chain := x509.NewCertPool()
		for _, cert := range s.PeerCertificates[1:] {
			chain.AddCert(cert)
		}
		_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: chain})
		if err != nil {
			return &tls.CertificateVerificationError{UnverifiedCertificates: s.PeerCertificates, Err: err}
		}
		return nil
	}
	return config
}

// provesName returns an error unless the certificate on conn is valid for the name
// of the node that answered.
func (c *Client) provesName(conn net.Conn, addr, id string) error {
	secured, ok := conn.(*tls.Conn)
	if !ok || len(c.o.TLS.Names) == 0 {
		return nil
	}
	name := cmp.Or(c.o.TLS.Names[id], c.o.Host(addr))
	if err := secured.ConnectionState().PeerCertificates[0].VerifyHostname(name); err != nil {
		return fmt.Errorf("%w: its certificate does not prove that it is node %q: the certificate must be valid for %q (TLS.Names, or the host of the address): %w", errNotForClient, id, name, err)
	}
	return nil
}
