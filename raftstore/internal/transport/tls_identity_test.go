package transport

import (
	"crypto/x509"
	"maps"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport/transporttest"
)

// named gives every node a certificate for its own name and nothing else.
func (ca *testCA) named(t testing.TB) func(*Options) {
	return func(o *Options) { o.TLS = ca.issueAs(t, *o, o.ID) }
}

// issueAs returns a node's files with the certificate of the node named id.
func (ca *testCA) issueAs(t testing.TB, o Options, id string) *TLS {
	t.Helper()
	return (*TLS)(ca.IssueAs(t, o.ID, id, slices.Collect(maps.Keys(o.Peers))))
}

// Nodes at one address are known by the names in their certificates.
func TestCertificateProvesTheNode(t *testing.T) {
	ca := newTestCA(t)
	a, b := startPair(t, ca.named(t))
	mustCall(t, a, b.Addr(), "x")
	mustCall(t, b, a.Addr(), "y")
	raftPair(t, a, b)
}

// A node that has the certificate of another one is refused in both directions,
// and both sides say why.
func TestCertificateOfAnotherNode(t *testing.T) {
	ca := newTestCA(t)
	log := &recorder{}
	configs := testOptions(t, 3)
	for i := range configs[:2] {
		configs[i].Logger = log.logger()
		ca.named(t)(&configs[i])
	}
	good := startNetwork(t, configs[1])
	good.Serve(echo)
	// It takes its own certificate for good, or it would not start.
	c := configs[2]
	c.TLS = ca.issueAs(t, c, "a")
	c.TLS.Names["c"] = transporttest.NodeName("a")
	impostor := startNetwork(t, c)
	impostor.Serve(echo)

	_, err := impostor.Call(testContext(t), good.Addr(), 1, nil)
	require.ErrorIs(t, err, ErrPeerRefused)
	require.ErrorIs(t, err, ErrNotSent)
	require.ErrorContains(t, err, `node "b" there does not take this node's certificate for that of node "c"`)
	require.Eventually(t, func() bool {
		return strings.Contains(log.String(), `its certificate does not prove that it is node \"c\"`) && strings.Contains(log.String(), transporttest.NodeName("c"))
	}, 10*time.Second, time.Millisecond)
	_, err = impostor.raftLayer().Dial(raft.ServerAddress(good.Addr()), time.Second)
	require.ErrorIs(t, err, ErrPeerRefused)

	_, err = good.Call(testContext(t), impostor.Addr(), 1, nil)
	require.ErrorIs(t, err, ErrPeerRefused)
	require.ErrorContains(t, err, transporttest.NodeName("c"))
	for _, conn := range good.Conns() {
		require.NotEqual(t, "c", conn.Peer)
	}
}

// as returns a network that dials as n would, with n's certificate, under another ID.
func (n *Network) as(id string) *Network {
	other := &Network{
		config: n.config, log: n.log, hello: n.hello.asPeer(id), creds: n.creds,
		dialer: n.dialer, timeout: n.timeout, reg: n.reg, admit: n.admit,
	}
	other.nodes.Store(n.nodes.Load())
	return other
}

// A name that is of no node has no certificate. It may ask how to join, and no more.
func TestCertificateOfNoNode(t *testing.T) {
	a, b := startPair(t, newTestCA(t).secure(t))
	_, err := a.as("zz").dial(testContext(t), KindCall, b.Addr())
	require.ErrorIs(t, err, ErrPeerRefused)
	require.ErrorContains(t, err, "does not take this node's certificate")
	_, err = a.as("zz").dial(testContext(t), KindRaft, b.Addr())
	require.ErrorIs(t, err, ErrPeerRefused)
	_, err = a.as("zz").dial(testContext(t), KindSetup, b.Addr())
	require.NoError(t, err)
	_, err = a.as("c").dial(testContext(t), KindSetup, b.Addr())
	require.NoError(t, err, "no node has that name")
}

// Without TLS.Names the host of a node's address is its name.
func TestCertificateProvesTheHost(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only 127.0.0.1 is loopback for certain")
	}
	ca := newTestCA(t)
	configs := testOptions(t, 3)
	hosts := map[string]net.IP{"a": net.IPv4(127, 0, 0, 1), "b": net.IPv4(127, 0, 0, 2), "c": net.IPv4(127, 0, 0, 3)}
	for i, o := range configs {
		_, port, err := net.SplitHostPort(o.Listen)
		require.NoError(t, err)
		configs[i].Listen = net.JoinHostPort(hosts[o.ID].String(), port)
		configs[i].Advertise = configs[i].Listen
		o.Peers[o.ID] = configs[i].Listen // Peers are shared
	}
	start := func(i int, ips ...net.IP) *Network {
		c := configs[i]
		c.TLS = ca.issue(t, c.ID, func(x *x509.Certificate) { x.IPAddresses = ips })
		n := startNetwork(t, c)
		n.Serve(echo)
		return n
	}
	a, b := start(0, hosts["a"]), start(1, hosts["b"])
	mustCall(t, a, b.Addr(), "x")
	mustCall(t, b, a.Addr(), "x")
	// The certificate of c is valid for a too, so that c passes for a; that of a
	// is not valid for c.
	c := start(2, hosts["c"], hosts["a"])
	mustCall(t, c, b.Addr(), "x")
	_, err := c.as("a").dial(testContext(t), KindRaft, b.Addr())
	require.NoError(t, err)
	_, err = a.as("c").dial(testContext(t), KindRaft, b.Addr())
	require.ErrorIs(t, err, ErrPeerRefused)
	require.ErrorContains(t, err, "does not take this node's certificate")
}
