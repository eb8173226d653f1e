package raftstore

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// from returns the address of a connection made by host.
func from(t *testing.T, host string) net.Addr {
	t.Helper()
	addr, err := net.ResolveTCPAddr("tcp", net.JoinHostPort(host, "4711"))
	require.NoError(t, err)
	return addr
}

func TestAdmissionLeavesDescriptors(t *testing.T) {
	for descriptors, most := range map[uint64]int{
		0: mostUnproven, 16: leastUnproven, 128: 16, 1024: mostUnproven, 1 << 63: mostUnproven,
	} {
		a := newAdmission(descriptors)
		require.Equal(t, most, a.most, "%d descriptors", descriptors)
		require.Equal(t, most/2, a.perHost)
	}
}

func TestAdmissionIsBoundedPerAddressAndInAll(t *testing.T) {
	a := newAdmission(128) // 16 in all, 8 an address
	enter := func(host string, count int) (leave []func()) {
		for range count {
			l, err := a.enter(from(t, host))
			require.NoError(t, err)
			leave = append(leave, l)
		}
		return leave
	}
	refused := func(host, why string) {
		t.Helper()
		_, err := a.enter(from(t, host))
		require.ErrorIs(t, err, errCrowded)
		require.ErrorContains(t, err, why)
	}
	first := enter("192.0.2.1", 8)
	refused("192.0.2.1", "8 from this address")
	refused("::ffff:192.0.2.1", "8 from this address")
	enter("2001:db8::1", 4)
	v6 := enter("2001:db8::2", 4)
	refused("2001:db8:0:0:ffff::3", "8 from this address") // one /64 network
	refused("192.0.2.2", "16 in all")

	// Places are given back, each to whom it was taken from.
	first[0]()
	enter("192.0.2.2", 1)
	refused("192.0.2.2", "16 in all")
	for _, leave := range append(first[1:], v6...) {
		leave()
	}
	enter("192.0.2.2", 7)
	require.Len(t, a.byHost, 2, "addresses without connections are forgotten")
}

// A crowd that comes from everywhere keeps no node of the cluster out.
func TestAdmissionKeepsPlacesForNodes(t *testing.T) {
	a := newAdmission(128)
	a.proven("b", from(t, "192.0.2.1"))
	a.proven("b", from(t, "192.0.2.2")) // it moved
	for i := range 16 {
		_, err := a.enter(from(t, net.IPv4(198, 51, 100, byte(i)).String()))
		require.NoError(t, err)
	}
	_, err := a.enter(from(t, "192.0.2.1"))
	require.ErrorIs(t, err, errCrowded)
	for range 8 {
		_, err := a.enter(from(t, "192.0.2.2"))
		require.NoError(t, err)
	}
	_, err = a.enter(from(t, "192.0.2.2"))
	require.ErrorIs(t, err, errCrowded, "a node's own places are bounded too")
}

// A connection too many is closed at once, which the log says once; when the
// others are gone there is room again.
func TestCrowdIsTurnedAway(t *testing.T) {
	log := &recorder{}
	a, b := startPair(t, func(c *Config) {
		c.Logger = log.logger()
		c.HeartbeatTimeout = mostDial // silent connections stay for as long as possible
	})
	b.admit.mu.Lock()
	b.admit.perHost = 4
	b.admit.mu.Unlock()
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", b.addr())
		require.NoError(t, err)
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	var crowd []net.Conn
	for range 4 {
		crowd = append(crowd, dial())
	}
	for range 10 {
		conn := dial()
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(b.timeout/2)))
		_, err := conn.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
	}
	lines := func() int { return strings.Count(log.String(), errCrowded.Error()) }
	require.Eventually(t, func() bool { return lines() > 0 }, 10*time.Second, time.Millisecond)
	for _, conn := range crowd {
		conn.Close()
	}
	require.Eventually(t, func() bool {
		b.admit.mu.Lock()
		defer b.admit.mu.Unlock()
		return b.admit.waiting == 0
	}, 10*time.Second, time.Millisecond)
	mustCall(t, a, b.addr(), "there is room")
	// What is established takes no place, whatever number there is.
	for range 8 {
		raftPair(t, a, b)
	}
	require.Equal(t, 1, lines())
}

// A node learns where the others are from both kinds of connections.
func TestNodesAreRemembered(t *testing.T) {
	a, b := startPair(t)
	mustCall(t, a, b.addr(), "x")
	for n, other := range map[*network]string{a: "b", b: "a"} {
		n.admit.mu.Lock()
		require.Equal(t, "127.0.0.1", n.admit.nodes[other].String())
		require.Len(t, n.admit.nodes, 1)
		n.admit.mu.Unlock()
	}
	conn, err := net.Dial("tcp", b.addr())
	require.NoError(t, err)
	defer conn.Close()
	_, err = b.hello.asPeer("zz").greet(conn, kindCall, "")
	require.NoError(t, err)
	require.Eventually(t, func() bool { return len(b.conns()) == 2 }, 10*time.Second, time.Millisecond)
	b.admit.mu.Lock()
	defer b.admit.mu.Unlock()
	require.Len(t, b.admit.nodes, 1, "a name that is not in Peers")
}

func TestBytesBeforeTheHelloAreBounded(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	go func() {
		_, _ = far.Write(make([]byte, helloBytes+100))
		far.Close()
	}()
	c := &helloConn{Conn: near, left: helloBytes}
	got, err := io.Copy(io.Discard, c)
	require.ErrorIs(t, err, errPeerRefused)
	require.Equal(t, int64(helloBytes), got)
	c.lift()
	got, err = io.Copy(io.Discard, c)
	require.NoError(t, err)
	require.Equal(t, int64(100), got)
}

// A handshake that brings more than helloBytes is cut off, here by a chain of
// certificates that is good otherwise.
func TestLongHandshakeIsCutOff(t *testing.T) {
	log := &recorder{}
	ca := newTestCA(t)
	_, b := startPair(t, ca.secure(t), func(c *Config) { c.Logger = log.logger() })
	files := ca.issue(t, "long", nil)
	cert, err := tls.LoadX509KeyPair(files.CertFile, files.KeyFile)
	require.NoError(t, err)
	for size := 0; size < helloBytes; size += len(ca.cert.Raw) {
		cert.Certificate = append(cert.Certificate, ca.cert.Raw)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	require.Error(t, rawTLS(t, b, &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}}))
	require.Eventually(t, func() bool { return strings.Contains(log.String(), "bytes came before the hello") }, 10*time.Second, time.Millisecond)
}
