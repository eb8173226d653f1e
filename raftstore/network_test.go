package raftstore

import (
	"context"
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

// testConfigs returns the settings of n nodes that form one cluster.
func testConfigs(t testing.TB, n int) []Config {
	t.Helper()
	var peers []Peer
	for i := range n {
		peers = append(peers, Peer{ID: string(rune('a' + i)), Addr: reservePort(t)})
	}
	configs := make([]Config, n)
	for i := range configs {
		configs[i] = Config{ID: peers[i].ID, Dir: t.TempDir(), Root: "test/root", Peers: peers}
	}
	return configs
}

func startNetwork(t testing.TB, c Config) *network {
	t.Helper()
	c, err := c.check()
	require.NoError(t, err)
	n, err := newNetwork(c)
	require.NoError(t, err)
	n.openRaft()
	n.become(func(h *hello) { h.incarnation = disk.Incarnation{7} })
	t.Cleanup(func() { assert.NoError(t, n.close()) })
	return n
}

// raftLayer returns what Raft's transport would use.
func (n *network) raftLayer() raft.StreamLayer { return n.raft.Load() }

// startPair starts two nodes, each of which echoes calls.
func startPair(t testing.TB, edit ...func(*Config)) (a, b *network) {
	t.Helper()
	configs := testConfigs(t, 2)
	for i := range configs {
		for _, e := range edit {
			e(&configs[i])
		}
	}
	a, b = startNetwork(t, configs[0]), startNetwork(t, configs[1])
	a.serve(echo)
	b.serve(echo)
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
func mustCall(t testing.TB, n *network, addr, body string) {
	t.Helper()
	reply, err := n.call(testContext(t), addr, 7, []byte(body))
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
		if strings.Contains(g, "raftstore.(*") && !strings.Contains(g, "_test.go") {
			left = append(left, g)
		}
	}
	return strings.Join(left, "\n\n")
}

// raftPair makes a raft connection from a to b, both ends, and lets anything
// pass.
func raftPair(t *testing.T, a, b *network) (dialled, accepted net.Conn) {
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
	dialled, err := a.raftLayer().Dial(raft.ServerAddress(b.addr()), 5*time.Second)
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

func testMux(t *testing.T, edit ...func(*Config)) {
	checkGoroutines(t)
	a, b := startPair(t, edit...)
	// Calls and Raft's traffic in both directions over one address each.
	mustCall(t, a, b.addr(), "to b")
	mustCall(t, b, a.addr(), "to a")
	dialled, accepted := raftPair(t, a, b)
	exchange(t, dialled, accepted, "ping")
	exchange(t, accepted, dialled, "pong")
	mustCall(t, a, b.addr(), "again")

	kinds := map[string]int{}
	for _, c := range b.conns() {
		assert.Equal(t, "a", c.Peer)
		kinds[fmt.Sprint(c.Kind, c.Dialled)]++
	}
	assert.Equal(t, map[string]int{"callfalse": 1, "calltrue": 1, "raftfalse": 1}, kinds)
}

func TestMuxPlain(t *testing.T) { testMux(t) }

func TestSilentPeerBlocksNobody(t *testing.T) {
	a, b := startPair(t)
	for range 20 {
		silent, err := net.Dial("tcp", b.addr())
		require.NoError(t, err)
		defer silent.Close()
	}
	mustCall(t, a, b.addr(), "past the silent ones")
	dialled, accepted := raftPair(t, a, b)
	exchange(t, dialled, accepted, "ping")
}

func TestSilentPeerIsDropped(t *testing.T) {
	_, b := startPair(t)
	silent, err := net.Dial("tcp", b.addr())
	require.NoError(t, err)
	defer silent.Close()
	require.NoError(t, silent.SetReadDeadline(time.Now().Add(b.timeout+5*time.Second)))
	_, err = silent.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
}

func TestForeignBytesAreRefused(t *testing.T) {
	a, b := startPair(t)
	for _, first := range []string{"GET / HTTP/1.1\r\n\r\n", "\x00\x00", "\xa7\x01", "\x16\x03\x01"} {
		conn, err := net.Dial("tcp", b.addr())
		require.NoError(t, err)
		_, err = conn.Write([]byte(first))
		require.NoError(t, err)
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
		_, err = io.Copy(io.Discard, conn)
		assert.NotErrorIs(t, err, os.ErrDeadlineExceeded, "the connection is still open")
		conn.Close()
	}
	mustCall(t, a, b.addr(), "still there")
}

func TestPortInUse(t *testing.T) {
	configs := testConfigs(t, 1)
	taken := startNetwork(t, configs[0])
	c, err := Config{ID: "x", Dir: t.TempDir(), Root: "r", Listen: taken.addr()}.check()
	require.NoError(t, err)
	_, err = newNetwork(c)
	require.ErrorIs(t, err, syscall.EADDRINUSE)
	require.ErrorIs(t, err, dcs.ErrUnavailable)
	require.ErrorContains(t, err, taken.addr())
	require.ErrorContains(t, err, "set Listen to a free port")
}

func TestListenOnForeignAddress(t *testing.T) {
	c, err := Config{ID: "x", Dir: t.TempDir(), Root: "r", Listen: "203.0.113.7:7001", PlaintextBeyondLoopback: true}.check()
	require.NoError(t, err)
	_, err = newNetwork(c)
	require.ErrorIs(t, err, dcs.ErrInvalid)
	require.ErrorContains(t, err, "no address of this machine")
}

func TestFreePort(t *testing.T) {
	n := startNetwork(t, Config{ID: "a", Dir: t.TempDir(), Root: "r", Listen: "127.0.0.1:0"})
	require.NotContains(t, n.addr(), ":0")
	require.Equal(t, n.addr(), n.raftLayer().Addr().String())
	got, err := n.ServerAddr("a")
	require.NoError(t, err)
	require.Equal(t, n.addr(), string(got))
	_, err = n.ServerAddr("b")
	require.Error(t, err)
}

// TestPlaintextStaysOnLoopback dials a name that resolves beyond loopback,
// which no check of the settings can see.
func TestPlaintextStaysOnLoopback(t *testing.T) {
	a, _ := startPair(t)
	a.dialer.Base.Resolver = fakeDNS(t, func() [4]byte { return [4]byte{192, 0, 2, 1} })
	_, err := a.call(testContext(t), "peer.test:7001", 1, nil)
	require.ErrorIs(t, err, errNotSent)
	require.ErrorIs(t, err, errPeerRefused)
	require.ErrorContains(t, err, "beyond loopback")
}

// TestNamesAreResolvedAtEveryDial moves a name from one address to another.
func TestNamesAreResolvedAtEveryDial(t *testing.T) {
	configs := testConfigs(t, 2)
	a := startNetwork(t, configs[0])
	_, port, err := net.SplitHostPort(configs[1].Peers[1].Addr)
	require.NoError(t, err)
	start := func(host string) *network {
		c := configs[1]
		c.Listen = net.JoinHostPort(host, port)
		n := startNetwork(t, c)
		n.serve(func(context.Context, byte, []byte) []byte { return []byte(host) })
		return n
	}
	var last atomic.Int32
	last.Store(2)
	a.dialer.Base.Resolver = fakeDNS(t, func() [4]byte { return [4]byte{127, 0, 0, byte(last.Load())} })
	old := start("127.0.0.2")
	reply, err := a.call(testContext(t), "peer.test:"+port, 1, nil)
	require.NoError(t, err)
	require.Equal(t, "127.0.0.2", string(reply))

	start("127.0.0.3")
	last.Store(3)
	require.NoError(t, old.close())
	require.Eventually(t, func() bool {
		reply, err = a.call(testContext(t), "peer.test:"+port, 1, nil)
		return err == nil // the first may still find the old connection
	}, 10*time.Second, time.Millisecond)
	require.Equal(t, "127.0.0.3", string(reply))
}

func TestHugeTTLKeepalive(t *testing.T) {
	for _, ttl := range []time.Duration{time.Second, 99999 * time.Second, 1<<63 - 1} {
		a, b := startPair(t, func(c *Config) { c.Timing.TTL = ttl })
		mustCall(t, a, b.addr(), "x")
		raftPair(t, a, b)
		want, _ := keepalive.Derive(ttl, dcs.Timing{TTL: ttl}.WithDefaults().LoopWait)
		for _, n := range []*network{a, b} {
			conns := n.conns()
			require.Len(t, conns, 2)
			for _, c := range conns {
				assert.Equal(t, n == a, c.Dialled)
				assert.Equal(t, want, c.Keepalive, "%+v", c)
			}
		}
	}
}

// fakeDNS answers every A question with what addr returns.
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
