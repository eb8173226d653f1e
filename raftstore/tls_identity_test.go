package raftstore

import (
	"crypto/x509"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// testName is the name of a node of a test in its certificate.
func testName(id string) string { return "node-" + id + ".test" }

// named gives every node a certificate for its own name and nothing else.
func (ca *testCA) named(t testing.TB) func(*Config) {
	return func(c *Config) { c.TLS = ca.issueAs(t, *c, c.ID) }
}

// issueAs returns a node's files with the certificate of the node named id.
func (ca *testCA) issueAs(t testing.TB, c Config, id string) *TLS {
	files := ca.issue(t, c.ID+"-as-"+id, func(x *x509.Certificate) { x.IPAddresses, x.DNSNames = nil, []string{testName(id)} })
	files.Names = map[string]string{}
	for _, p := range c.Peers {
		files.Names[p.ID] = testName(p.ID)
	}
	return files
}

// Nodes at one address are known by the names in their certificates.
func TestCertificateProvesTheNode(t *testing.T) {
	ca := newTestCA(t)
	a, b := startPair(t, ca.named(t))
	mustCall(t, a, b.addr(), "x")
	mustCall(t, b, a.addr(), "y")
	raftPair(t, a, b)
}

// A node that has the certificate of another one is refused in both directions,
// and both sides say why.
func TestCertificateOfAnotherNode(t *testing.T) {
	ca := newTestCA(t)
	log := &recorder{}
	configs := testConfigs(t, 3)
	for i := range configs[:2] {
		configs[i].Logger = log.logger()
		ca.named(t)(&configs[i])
	}
	good := startNetwork(t, configs[1])
	good.serve(echo)
	// It takes its own certificate for good, or it would not start.
	c := configs[2]
	c.TLS = ca.issueAs(t, c, "a")
	c.TLS.Names["c"] = testName("a")
	impostor := startNetwork(t, c)
	impostor.serve(echo)

	_, err := impostor.call(testContext(t), good.addr(), 1, nil)
	require.ErrorIs(t, err, errPeerRefused)
	require.ErrorIs(t, err, errNotSent)
	require.ErrorContains(t, err, `node "b" there does not take this node's certificate for that of node "c"`)
	require.Eventually(t, func() bool {
		return strings.Contains(log.String(), `its certificate does not prove that it is node \"c\"`) && strings.Contains(log.String(), testName("c"))
	}, 10*time.Second, time.Millisecond)
	_, err = impostor.raftLayer().Dial(raft.ServerAddress(good.addr()), time.Second)
	require.ErrorIs(t, err, errPeerRefused)

	_, err = good.call(testContext(t), impostor.addr(), 1, nil)
	require.ErrorIs(t, err, errPeerRefused)
	require.ErrorContains(t, err, testName("c"))
	for _, conn := range good.conns() {
		require.NotEqual(t, "c", conn.Peer)
	}
}

// as returns what dials as n would, with n's certificate, under another ID.
func (n *network) as(id string) *network {
	return &network{
		config: n.config, log: n.log, hello: n.hello.asPeer(id), peers: n.peers, creds: n.creds,
		dialer: n.dialer, timeout: n.timeout, reg: n.reg, admit: n.admit,
	}
}

// A name that is not in Peers has no certificate.
func TestCertificateOfNoNode(t *testing.T) {
	a, b := startPair(t, newTestCA(t).secure(t))
	_, err := a.as("zz").dial(testContext(t), kindCall, b.addr())
	require.ErrorIs(t, err, errPeerRefused)
	require.ErrorContains(t, err, "does not take this node's certificate")
}

// Without TLS.Names the host of a node's address is its name.
func TestCertificateProvesTheHost(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only 127.0.0.1 is loopback for certain")
	}
	ca := newTestCA(t)
	configs := testConfigs(t, 3)
	hosts := map[string]net.IP{"a": net.IPv4(127, 0, 0, 1), "b": net.IPv4(127, 0, 0, 2), "c": net.IPv4(127, 0, 0, 3)}
	for i, p := range configs[0].Peers {
		_, port, err := net.SplitHostPort(p.Addr)
		require.NoError(t, err)
		configs[0].Peers[i].Addr = net.JoinHostPort(hosts[p.ID].String(), port) // Peers are shared
	}
	start := func(i int, ips ...net.IP) *network {
		c := configs[i]
		c.TLS = ca.issue(t, c.ID, func(x *x509.Certificate) { x.IPAddresses = ips })
		n := startNetwork(t, c)
		n.serve(echo)
		return n
	}
	a, b := start(0, hosts["a"]), start(1, hosts["b"])
	mustCall(t, a, b.addr(), "x")
	mustCall(t, b, a.addr(), "x")
	// The certificate of c is valid for a too, so that c passes for a; that of a
	// is not valid for c.
	c := start(2, hosts["c"], hosts["a"])
	mustCall(t, c, b.addr(), "x")
	_, err := c.as("a").dial(testContext(t), kindRaft, b.addr())
	require.NoError(t, err)
	_, err = a.as("c").dial(testContext(t), kindRaft, b.addr())
	require.ErrorIs(t, err, errPeerRefused)
	require.ErrorContains(t, err, "does not take this node's certificate")
}

// A node with another node's certificate cannot vote, nor be heard of.
func TestImpostorDoesNotVote(t *testing.T) {
	ca := newTestCA(t)
	tc := &testCluster{t: t, config: clusterConfigs(t, 3), node: make([]*Backend, 3)}
	for i := range tc.config {
		tc.wiring = append(tc.wiring, defaultWiring())
		ca.named(t)(&tc.config[i])
		tc.config[i].HeartbeatTimeout = 500 * time.Millisecond
	}
	t.Cleanup(tc.stopAll)
	for i := range 3 {
		tc.start(i)
	}
	tc.leader()
	rev, err := tc.node[0].Commit(testCtx(t), dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
	require.NoError(t, err)
	tc.stop(2)
	genuine := tc.config[2].TLS
	tc.config[2].TLS = ca.issueAs(t, tc.config[2], "b")
	tc.config[2].TLS.Names["c"] = testName("b")
	tc.start(2)
	tc.stop(0) // which may have made b the leader
	term := tc.node[1].node.member().raft.CurrentTerm()
	// One vote is missing for b or c to lead.
	for start := dcs.Now(); start.Elapsed() < 8*tc.config[0].HeartbeatTimeout; {
		for _, b := range tc.node[1:] {
			require.LessOrEqual(t, b.node.leading(), term, "the impostor took part in an election")
		}
		<-time.After(10 * time.Millisecond)
	}
	b := tc.node[1]
	tc.stop(2)
	tc.config[2].TLS = genuine
	tc.start(2)
	e, err := b.Get(testCtx(t), "k")
	require.NoError(t, err)
	require.Equal(t, rev, e.Created)
}
