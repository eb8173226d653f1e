package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dcs/holdfast/internal/bubble"
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

// knock is a connection from somewhere.
type knock struct {
	net.Conn
	at     net.Addr
	closed bool
}

func (k *knock) RemoteAddr() net.Addr { return k.at }

func (k *knock) Close() error {
	k.closed = true
	return nil
}

// crowd takes places for connections from host that have spoken.
func crowd(t *testing.T, a *admission, host string, count int) (places []*place) {
	t.Helper()
	for range count {
		p, gone, crowded := a.enter(&knock{at: from(t, host)})
		require.NoError(t, crowded)
		require.Nil(t, gone)
		a.spoke(p)
		places = append(places, p)
	}
	return places
}

// refused expects that there is no place for a connection from host.
func refused(t *testing.T, a *admission, host, why string) {
	t.Helper()
	k := &knock{at: from(t, host)}
	p, gone, crowded := a.enter(k)
	require.Nil(t, p)
	require.Equal(t, k, gone)
	require.ErrorIs(t, crowded, errCrowded)
	require.ErrorContains(t, crowded, why)
}

func TestAdmissionIsBoundedPerAddressAndInAll(t *testing.T) {
	a := newAdmission(128) // 16 in all, 8 an address
	first := crowd(t, a, "192.0.2.1", 8)
	refused(t, a, "192.0.2.1", "8 from this address")
	refused(t, a, "::ffff:192.0.2.1", "8 from this address")
	v6 := append(crowd(t, a, "2001:db8::1", 4), crowd(t, a, "2001:db8::2", 4)...)
	refused(t, a, "2001:db8:0:0:ffff::3", "8 from this address") // one /64 network
	refused(t, a, "192.0.2.2", "16 in all")

	// Places are given back, each to its origin, and once.
	a.leave(first[0])
	a.leave(first[0])
	crowd(t, a, "192.0.2.2", 1)
	refused(t, a, "192.0.2.2", "16 in all")
	for _, p := range append(first, v6...) {
		a.leave(p)
	}
	crowd(t, a, "192.0.2.2", 7)
	require.Len(t, a.byHost, 1, "addresses without connections are forgotten")
	require.Len(t, a.places, 8)
}

// A crowd that comes from everywhere keeps no node of the cluster out.
func TestAdmissionKeepsPlacesForNodes(t *testing.T) {
	a := newAdmission(128)
	a.proven("b", from(t, "192.0.2.1"))
	a.proven("b", from(t, "192.0.2.2")) // it moved
	for i := range 16 {
		crowd(t, a, net.IPv4(198, 51, 100, byte(i)).String(), 1)
	}
	refused(t, a, "192.0.2.1", "16 in all")
	crowd(t, a, "192.0.2.2", 8)
	refused(t, a, "192.0.2.2", "8 from this address") // a node's own places are bounded too
}

// The connection that has been silent for the longest time makes room: of the
// same address if that has too many, else any stranger's.
func TestSilentConnectionsGiveWay(t *testing.T) {
	a := newAdmission(128)
	a.proven("b", from(t, "203.0.113.1"))
	enter := func(host string) *knock {
		k := &knock{at: from(t, host)}
		p, gone, _ := a.enter(k)
		require.NotNil(t, p)
		if gone != nil {
			gone.Close()
		}
		return k
	}
	node := enter("203.0.113.1")
	spoken := crowd(t, a, "192.0.2.1", 6)
	other := enter("192.0.2.2")
	first, second := enter("192.0.2.1"), enter("192.0.2.1")
	third := enter("192.0.2.1")
	require.True(t, first.closed)
	require.False(t, other.closed || second.closed || third.closed)
	for i := range 7 {
		enter(net.IPv4(198, 51, 100, byte(i)).String())
	}
	require.Equal(t, 16, a.waiting)
	require.False(t, other.closed)
	enter("198.51.100.100")
	require.True(t, other.closed)
	require.False(t, second.closed || third.closed || node.closed)
	require.Equal(t, 16, a.waiting)
	for _, p := range spoken {
		require.False(t, p.conn.(*knock).closed)
	}
}

// A connection too many is closed at once, which the log says once; when the
// others are gone there is room again.
func TestCrowdIsTurnedAway(t *testing.T) {
	log := &recorder{}
	a, b := startPair(t, func(c *Options) {
		c.Logger = log.logger()
		c.HeartbeatTimeout = mostDial // unproven connections stay for as long as possible
	})
	b.admit.mu.Lock()
	b.admit.perHost = 4
	b.admit.mu.Unlock()
	dial := func(first ...byte) net.Conn {
		conn, err := net.Dial("tcp", b.Addr())
		require.NoError(t, err)
		t.Cleanup(func() { conn.Close() })
		_, err = conn.Write(first)
		require.NoError(t, err)
		return conn
	}
	waiting := func(count int) {
		t.Helper()
		require.Eventually(t, func() bool {
			b.admit.mu.Lock()
			defer b.admit.mu.Unlock()
			return len(b.admit.places) == count && !slices.ContainsFunc(b.admit.places, func(p *place) bool { return p.quiet })
		}, 10*time.Second, time.Millisecond)
	}
	var crowd []net.Conn
	for range 4 {
		crowd = append(crowd, dial(helloMarker|byte(KindCall)))
	}
	waiting(4)
	for range 10 {
		conn := dial()
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(b.timeout/2)))
		_, err := conn.Read(make([]byte, 1))
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	}
	lines := func() int { return strings.Count(log.String(), errCrowded.Error()) }
	require.Eventually(t, func() bool { return lines() > 0 }, 10*time.Second, time.Millisecond)
	for _, conn := range crowd {
		conn.Close()
	}
	waiting(0)
	mustCall(t, a, b.Addr(), "there is room")
	// Established connections take no place, in any number.
	for range 8 {
		raftPair(t, a, b)
	}
	// Silent connections keep nobody out, of the same address either.
	for range 20 {
		dial()
	}
	raftPair(t, a, b)
	require.Equal(t, 1, lines())
}

// A node learns where the others are from both kinds of connections.
func TestNodesAreRemembered(t *testing.T) {
	a, b := startPair(t)
	mustCall(t, a, b.Addr(), "x")
	for n, other := range map[*Network]string{a: "b", b: "a"} {
		n.admit.mu.Lock()
		require.Equal(t, "127.0.0.1", n.admit.nodes[other].String())
		require.Len(t, n.admit.nodes, 1)
		n.admit.mu.Unlock()
	}
	conn, err := net.Dial("tcp", b.Addr())
	require.NoError(t, err)
	defer conn.Close()
	_, err = b.hello.asPeer("zz").greet(conn, KindCall, "")
	require.NoError(t, err)
	require.Eventually(t, func() bool { return len(b.Conns()) == 2 }, 10*time.Second, time.Millisecond)
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
	times := 0
	c := &helloConn{Conn: near, ctx: t.Context(), turns: make(turns, 1), left: helloBytes, spoke: func() { times++ }}
	got, err := io.Copy(io.Discard, c)
	require.ErrorIs(t, err, ErrPeerRefused)
	require.Equal(t, int64(helloBytes), got)
	require.Equal(t, 1, times)
	c.lift()
	got, err = io.Copy(io.Discard, c)
	require.NoError(t, err)
	require.Equal(t, int64(100), got)
}

// Handshakes compute one after the other, and wait for their peers next to each
// other.
func TestHandshakesTakeTurns(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		turns := make(turns, 1)
		ctx, cancel := context.WithCancel(t.Context())
		open := func() (*helloConn, net.Conn) {
			near, far := net.Pipe()
			t.Cleanup(func() { near.Close(); far.Close() })
			return &helloConn{Conn: near, ctx: ctx, turns: turns, left: helloBytes, spoke: func() {}}, far
		}
		read := func(c *helloConn) chan error {
			done := make(chan error, 1)
			go func() {
				_, err := c.Read(make([]byte, 1))
				done <- err
			}()
			synctest.Wait()
			return done
		}
		a, toA := open()
		b, toB := open()
		c, toC := open()
		first := read(a)
		_, err := toA.Write([]byte{1})
		require.NoError(t, err)
		require.NoError(t, <-first)
		second := read(b)
		_, err = toB.Write([]byte{1})
		require.NoError(t, err)
		synctest.Wait()
		require.Empty(t, second, "two handshakes compute at once")
		again := read(a) // which waits for its peer and computes nothing
		require.NoError(t, <-second)
		b.lift()
		_, err = toA.Write([]byte{1})
		require.NoError(t, err)
		require.NoError(t, <-again)
		third := read(c)
		_, err = toC.Write([]byte{1})
		require.NoError(t, err)
		cancel() // its time is over
		require.ErrorIs(t, <-third, context.Canceled)
		a.lift()
		a.lift()
		require.Empty(t, turns, "turns are given back once")
	})
}

// A handshake that brings more than helloBytes is cut off, here by a chain of
// certificates that is good otherwise.
func TestLongHandshakeIsCutOff(t *testing.T) {
	log := &recorder{}
	ca := newTestCA(t)
	_, b := startPair(t, ca.secure(t), func(c *Options) { c.Logger = log.logger() })
	files := ca.issue(t, "long", nil)
	cert, err := tls.LoadX509KeyPair(files.CertFile, files.KeyFile)
	require.NoError(t, err)
	for size := 0; size < helloBytes; size += len(ca.Cert.Raw) {
		cert.Certificate = append(cert.Certificate, ca.Cert.Raw)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.Cert)
	require.Error(t, rawTLS(t, b, &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}}))
	require.Eventually(t, func() bool { return strings.Contains(log.String(), "bytes came before the hello") }, 10*time.Second, time.Millisecond)
}

// However many connections say nothing, no more of them wait than have a place.
func TestFloodStaysWithinItsPlaces(t *testing.T) {
	a, b := startPair(t)
	for range 3 * b.admit.perHost {
		conn, err := net.Dial("tcp", b.Addr())
		require.NoError(t, err)
		t.Cleanup(func() { conn.Close() })
		b.admit.mu.Lock()
		waiting := len(b.admit.places)
		b.admit.mu.Unlock()
		require.LessOrEqual(t, waiting, b.admit.perHost)
	}
	mustCall(t, a, b.Addr(), "past all of them")
}
