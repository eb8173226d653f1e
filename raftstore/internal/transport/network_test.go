package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/keepalive"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
)

// reservePort returns a loopback address that was free a moment ago.
func reservePort(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	return ln.Addr().String()
}

// testOptions returns the options of n nodes that form one cluster.
func testOptions(t testing.TB, n int) []Options {
	t.Helper()
	peers := map[string]string{}
	for i := range n {
		peers[string(rune('a'+i))] = reservePort(t)
	}
	list := make([]Options, n)
	for i := range list {
		list[i] = optionsFor(string(rune('a'+i)), peers)
	}
	return list
}

// optionsFor returns the options of node id among the peers.
func optionsFor(id string, peers map[string]string) Options {
	timing := dcs.Timing{}.WithDefaults()
	keep, _ := keepalive.Derive(timing.TTL, timing.LoopWait)
	return Options{
		ID: id, Cluster: NewClusterID("test/root"),
		Listen: peers[id], Advertise: peers[id], Peers: peers,
		Keepalive: keep, HeartbeatTimeout: time.Second, ElectionTimeout: time.Second,
	}
}

func startNetwork(t testing.TB, o Options) *Network {
	t.Helper()
	n, err := New(o)
	require.NoError(t, err)
	n.OpenRaft()
	n.Become(func(h *Hello) { h.Incarnation = disk.Incarnation{7} })
	t.Cleanup(func() { assert.NoError(t, n.Close()) })
	return n
}

// raftLayer returns the layer that Raft's transport would use.
func (n *Network) raftLayer() raft.StreamLayer { return n.raft.Load() }

// startPair starts two nodes, each of which echoes calls.
func startPair(t testing.TB, edit ...func(*Options)) (a, b *Network) {
	t.Helper()
	configs := testOptions(t, 2)
	for i := range configs {
		for _, e := range edit {
			e(&configs[i])
		}
	}
	a, b = startNetwork(t, configs[0]), startNetwork(t, configs[1])
	a.Serve(echo)
	b.Serve(echo)
	return a, b
}

func echo(_ context.Context, op byte, body []byte) []byte {
	return append([]byte{op}, body...)
}

// testContext ends long before the test's own time runs out.
func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// mustCall makes a call that has to work.
func mustCall(t testing.TB, n *Network, addr, body string) {
	t.Helper()
	reply, err := n.Call(testContext(t), addr, 7, []byte(body))
	require.NoError(t, err)
	require.Equal(t, "\x07"+body, string(reply))
}

// checkGoroutines fails when goroutines of this package outlive the test.
func checkGoroutines(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		var left string
		for range 100 {
			if left = ours(); left == "" {
				return
			}
			runtime.Gosched()
			<-time.After(10 * time.Millisecond)
		}
		t.Errorf("goroutines are left:\n%s", left)
	})
}

// ours lists the goroutines that run this package's code outside of tests.
func ours() string {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	var left []string
	for _, g := range strings.Split(string(buf), "\n\n") {
		if strings.Contains(g, "transport.(*") && !strings.Contains(g, "_test.go") {
			left = append(left, g)
		}
	}
	return strings.Join(left, "\n\n")
}

// raftPair makes a raft connection from a to b, both ends, and lets anything
// pass.
func raftPair(t *testing.T, a, b *Network) (dialled, accepted net.Conn) {
	t.Helper()
	type result struct {
		conn net.Conn
		err  error
	}
	in := make(chan result, 1)
	go func() {
		conn, err := b.raftLayer().Accept()
		in <- result{conn, err}
	}()
	dialled, err := a.raftLayer().Dial(raft.ServerAddress(b.Addr()), 5*time.Second)
	require.NoError(t, err)
	r := <-in
	require.NoError(t, r.err)
	return dialled.(*raftGuard).trackedConn, r.conn.(*raftGuard).trackedConn
}

func exchange(t *testing.T, from, to net.Conn, msg string) {
	t.Helper()
	_, err := from.Write([]byte(msg))
	require.NoError(t, err)
	got := make([]byte, len(msg))
	_, err = io.ReadFull(to, got)
	require.NoError(t, err)
	require.Equal(t, msg, string(got))
}

func testMux(t *testing.T, edit ...func(*Options)) {
	checkGoroutines(t)
	a, b := startPair(t, edit...)
	// Calls and Raft's traffic in both directions over one address each.
	mustCall(t, a, b.Addr(), "to b")
	mustCall(t, b, a.Addr(), "to a")
	dialled, accepted := raftPair(t, a, b)
	exchange(t, dialled, accepted, "ping")
	exchange(t, accepted, dialled, "pong")
	mustCall(t, a, b.Addr(), "again")

	kinds := map[string]int{}
	for _, c := range b.Conns() {
		assert.Equal(t, "a", c.Peer)
		kinds[fmt.Sprint(c.Kind, c.Dialled)]++
	}
	assert.Equal(t, map[string]int{"callfalse": 1, "calltrue": 1, "raftfalse": 1}, kinds)
}

func TestMuxPlain(t *testing.T) { testMux(t) }

func TestSilentPeerBlocksNobody(t *testing.T) {
	a, b := startPair(t)
	for range 20 {
		silent, err := net.Dial("tcp", b.Addr())
		require.NoError(t, err)
		defer silent.Close()
	}
	mustCall(t, a, b.Addr(), "past the silent ones")
	dialled, accepted := raftPair(t, a, b)
	exchange(t, dialled, accepted, "ping")
}

func TestSilentPeerIsDropped(t *testing.T) {
	_, b := startPair(t)
	silent, err := net.Dial("tcp", b.Addr())
	require.NoError(t, err)
	defer silent.Close()
	require.NoError(t, silent.SetReadDeadline(time.Now().Add(b.timeout+5*time.Second)))
	_, err = silent.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
}

func TestForeignBytesAreRefused(t *testing.T) {
	a, b := startPair(t)
	for _, first := range []string{"GET / HTTP/1.1\r\n\r\n", "\x00\x00", "\xa7\x01", "\x16\x03\x01"} {
		conn, err := net.Dial("tcp", b.Addr())
		require.NoError(t, err)
		_, err = conn.Write([]byte(first))
		require.NoError(t, err)
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
		_, err = io.Copy(io.Discard, conn)
		assert.NotErrorIs(t, err, os.ErrDeadlineExceeded, "the connection is still open")
		conn.Close()
	}
	mustCall(t, a, b.Addr(), "still there")
}

func TestPortInUse(t *testing.T) {
	taken := startNetwork(t, testOptions(t, 1)[0])
	_, err := New(optionsFor("x", map[string]string{"x": taken.Addr()}))
	require.ErrorIs(t, err, syscall.EADDRINUSE)
	var unusable *OptionsError
	require.False(t, errors.As(err, &unusable))
	require.ErrorContains(t, err, taken.Addr())
	require.ErrorContains(t, err, "set Listen to a free port")
}

// A process that is being started has a copy of the listener until it executes its program.
func TestCloseFreesThePort(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux can end the copies of a listener")
	}
	o := testOptions(t, 1)[0]
	logged := &recorder{}
	o.Logger = logged.logger()
	n, err := New(o)
	require.NoError(t, err)
	file, err := n.ln.Listener.(*net.TCPListener).File()
	require.NoError(t, err)
	defer file.Close()
	require.NoError(t, n.Close())
	require.Empty(t, logged.String(), "the end of the listener is no fault")
	n, err = New(o)
	require.NoError(t, err)
	require.NoError(t, n.Close())
}

func TestListenOnForeignAddress(t *testing.T) {
	o := optionsFor("x", map[string]string{"x": "203.0.113.7:7001"})
	o.PlaintextBeyondLoopback = true
	_, err := New(o)
	var unusable *OptionsError
	require.ErrorAs(t, err, &unusable)
	require.ErrorContains(t, err, "no address of this machine")
}

func TestFreePort(t *testing.T) {
	o := optionsFor("a", nil)
	o.Listen, o.Advertise = "127.0.0.1:0", "127.0.0.1:0"
	n := startNetwork(t, o)
	require.NotContains(t, n.Addr(), ":0")
	require.Equal(t, n.Addr(), n.raftLayer().Addr().String())
	got, err := n.ServerAddr("a")
	require.NoError(t, err)
	require.Equal(t, n.Addr(), string(got))
	_, err = n.ServerAddr("b")
	require.Error(t, err)
}

// TestPlaintextStaysOnLoopback dials a name that resolves beyond loopback,
// which no check of the settings can see.
func TestPlaintextStaysOnLoopback(t *testing.T) {
	a, _ := startPair(t)
	a.dialer.Base.Resolver = fakeDNS(t, func() [4]byte { return [4]byte{192, 0, 2, 1} })
	_, err := a.Call(testContext(t), "peer.test:7001", 1, nil)
	require.ErrorIs(t, err, ErrNotSent)
	require.ErrorIs(t, err, ErrPeerRefused)
	require.ErrorContains(t, err, "beyond loopback")
}

// TestNamesAreResolvedAtEveryDial moves a name from one address to another.
func TestNamesAreResolvedAtEveryDial(t *testing.T) {
	configs := testOptions(t, 2)
	a := startNetwork(t, configs[0])
	_, port, err := net.SplitHostPort(configs[1].Listen)
	require.NoError(t, err)
	start := func(host string) *Network {
		c := configs[1]
		c.Listen = net.JoinHostPort(host, port)
		n := startNetwork(t, c)
		n.Serve(func(context.Context, byte, []byte) []byte { return []byte(host) })
		return n
	}
	var last atomic.Int32
	last.Store(2)
	a.dialer.Base.Resolver = fakeDNS(t, func() [4]byte { return [4]byte{127, 0, 0, byte(last.Load())} })
	old := start("127.0.0.2")
	reply, err := a.Call(testContext(t), "peer.test:"+port, 1, nil)
	require.NoError(t, err)
	require.Equal(t, "127.0.0.2", string(reply))

	start("127.0.0.3")
	last.Store(3)
	require.NoError(t, old.Close())
	require.Eventually(t, func() bool {
		reply, err = a.Call(testContext(t), "peer.test:"+port, 1, nil)
		return err == nil // the first may still find the old connection
	}, 10*time.Second, time.Millisecond)
	require.Equal(t, "127.0.0.3", string(reply))
}

func TestHugeTTLKeepalive(t *testing.T) {
	for _, ttl := range []time.Duration{time.Second, 99999 * time.Second, 1<<63 - 1} {
		want, _ := keepalive.Derive(ttl, dcs.Timing{TTL: ttl}.WithDefaults().LoopWait)
		a, b := startPair(t, func(c *Options) { c.Keepalive = want })
		mustCall(t, a, b.Addr(), "x")
		raftPair(t, a, b)
		for _, n := range []*Network{a, b} {
			conns := n.Conns()
			require.Len(t, conns, 2)
			for _, c := range conns {
				assert.Equal(t, n == a, c.Dialled)
				assert.Equal(t, want, c.Keepalive, "%+v", c)
			}
		}
	}
}

// fakeDNS answers every A question with the result of addr.
func fakeDNS(t *testing.T, addr func() [4]byte) *net.Resolver {
	t.Helper()
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	t.Cleanup(func() {
		server.Close()
		<-done
	})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = server.WriteTo(dnsAnswer(buf[:n], addr()), from)
		}
	}()
	return &net.Resolver{
		PreferGo: true,
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "udp", server.LocalAddr().String())
		},
	}
}

// dnsAnswer repeats the question and answers it if it asks for an A record.
func dnsAnswer(query []byte, addr [4]byte) []byte {
	end := 12
	for query[end] != 0 {
		end += int(query[end]) + 1
	}
	end += 5
	isA := query[end-3] == 1
	answer := append([]byte{query[0], query[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, query[12:end]...)
	if isA {
		answer[7] = 1
		answer = append(answer, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4)
		answer = append(answer, addr[:]...)
	}
	return answer
}
