package transport

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/keepalive"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
)

// clientOf returns a client of the cluster that n belongs to.
func clientOf(t testing.TB, n *Network, edit ...func(*ClientOptions)) *Client {
	t.Helper()
	o := ClientOptions{ID: "client-1", Cluster: n.config.Cluster, Keepalive: keepalive.Config{Idle: time.Second, Interval: time.Second, Count: 3}, DialTimeout: 2 * time.Second}
	for _, e := range edit {
		e(&o)
	}
	c, err := NewClient(o)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func (l *load) total() nodeLoad {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sum
}

// serveClients answers calls of clients with the name that they count under, and streams with
// their request over and over.
func serveClients(n *Network) {
	n.ServeClients(ClientHandler{
		Call: func(ctx context.Context, op byte, body []byte) []byte {
			return fmt.Appendf(nil, "%q %d %s", Caller(ctx), op, body)
		},
		Stream: func(ctx context.Context, body []byte, push func([]byte) error) error {
			if string(body) == "fail" {
				return errors.New("no such stream")
			}
			for {
				if err := push(body); err != nil {
					return err
				}
			}
		},
	})
}

// P2: nothing that a client sends is the word of a node, under any name.
func TestClientIsNoNode(t *testing.T) {
	_, b := startPair(t)
	serveClients(b)
	c := clientOf(t, b, func(o *ClientOptions) { o.ID = "a" })
	c.hello.Life, c.hello.Starts = disk.Life{9}, 99 // those of a node, says the client
	reply, err := c.Call(testContext(t), b.Addr(), 3, []byte("x"))
	require.NoError(t, err)
	require.Equal(t, `"" 3 x`, string(reply))
	require.Equal(t, "b", c.NodeAt(b.Addr()))
	require.Equal(t, 1, b.Clients())
	require.Empty(t, b.Conns(), "a client counts as a node")
	require.Empty(t, b.admit.nodes, "the address of a client counts as that of a node")
	require.Zero(t, b.Seen(disk.Life{9}), "a client says how often a node was started")
	require.Zero(t, b.load.connected())
}

func TestClientKnowsItsCluster(t *testing.T) {
	a, b := startPair(t)
	serveClients(a)
	serveClients(b)
	c := clientOf(t, a)
	_, err := c.Call(testContext(t), a.Addr(), 3, nil)
	require.NoError(t, err)
	require.Equal(t, disk.Incarnation{7}, c.Incarnation())

	// A node of another incarnation is refused by both sides.
	b.Become(func(h *Hello) { h.Incarnation = disk.Incarnation{8} })
	_, err = c.Call(testContext(t), b.Addr(), 3, nil)
	require.ErrorIs(t, err, ErrPeerRefused)
	require.ErrorIs(t, err, ErrNotSent)
	require.ErrorContains(t, err, `no node that this client can use: "b" there belongs to another incarnation`)
	require.NoError(t, c.Exclusion([]string{a.Addr(), b.Addr()}))
	require.ErrorIs(t, c.Exclusion([]string{b.Addr()}), ErrPeerRefused)
	require.Equal(t, []string{a.Addr()}, c.Reaches("a"))

	// One that was not founded yet serves nobody, and may later.
	b.Become(func(h *Hello) { h.Incarnation = disk.Incarnation{} })
	fresh := clientOf(t, a)
	_, err = fresh.Call(testContext(t), b.Addr(), 3, nil)
	require.ErrorIs(t, err, errUnfounded)
	require.NotErrorIs(t, err, ErrPeerRefused)

	// The tree is another one.
	other := clientOf(t, a, func(o *ClientOptions) { o.Cluster = NewClusterID("another/root") })
	_, err = other.Call(testContext(t), a.Addr(), 3, nil)
	require.ErrorIs(t, err, ErrPeerRefused)
	require.ErrorContains(t, err, "keeps another tree")
}

// A certificate that is for client use makes calls of a client and nothing else,
// though it is valid for the name of a node: the program may run on its machine.
func TestCertificateOfAClient(t *testing.T) {
	ca := newTestCA(t)
	_, b := startPair(t, ca.secure(t))
	serveClients(b)
	b.Serve(echo)
	files := ca.issue(t, "client", func(x *x509.Certificate) { x.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
	c := clientOf(t, b, func(o *ClientOptions) { o.TLS = files })
	_, err := c.Call(testContext(t), b.Addr(), 3, nil)
	require.NoError(t, err)

	thief := &Network{config: b.config, hello: b.Greeting().asPeer("a"), creds: c.creds, reg: newRegistry(), timeout: time.Second, admit: newAdmission(0), dialer: &keepalive.Dialer{Base: &net.Dialer{}}, seen: map[disk.Life]Start{}}
	thief.UseNodes(func() map[string]string { return nil })
	for _, k := range []Kind{KindRaft, KindCall, KindSetup} {
		_, err := thief.dial(testContext(t), k, b.Addr())
		require.ErrorIs(t, err, ErrPeerRefused, "%v", k)
	}
	_, err = New(func() Options {
		o := b.config
		o.TLS, o.Listen, o.Advertise = files, reservePort(t), "127.0.0.1:0"
		return o
	}())
	require.ErrorContains(t, err, "for server and client use")

	// Without a name in its certificate a client is as good.
	nameless := ca.issue(t, "nameless", func(x *x509.Certificate) { x.IPAddresses = nil })
	c = clientOf(t, b, func(o *ClientOptions) { o.TLS = nameless })
	_, err = c.Call(testContext(t), b.Addr(), 3, nil)
	require.NoError(t, err)

	// A node must prove its name where names were given.
	c = clientOf(t, b, func(o *ClientOptions) {
		named := *files
		named.Names = map[string]string{"b": "node-b.example"}
		o.TLS = &named
	})
	_, err = c.Call(testContext(t), b.Addr(), 3, nil)
	require.ErrorIs(t, err, ErrPeerRefused)
	require.ErrorContains(t, err, "node-b.example")

	stranger := newTestCA(t).issue(t, "stranger", nil)
	c = clientOf(t, b, func(o *ClientOptions) {
		o.TLS = &TLS{CertFile: stranger.CertFile, KeyFile: stranger.KeyFile, CAFile: stranger.CAFile}
	})
	_, err = c.Call(testContext(t), b.Addr(), 3, nil)
	require.ErrorIs(t, err, ErrPeerRefused)
}

// The connections of clients are bounded for themselves, and so are their calls:
// the nodes' are not concerned.
func TestClientsTakeNothingFromNodes(t *testing.T) {
	a, b := startPair(t)
	serveClients(b)
	b.Serve(echo)
	b.clients.all.conns = 3
	for range 3 {
		_, err := clientOf(t, b).Call(testContext(t), b.Addr(), 3, nil)
		require.NoError(t, err)
	}
	_, err := clientOf(t, b).Call(testContext(t), b.Addr(), 3, nil)
	require.ErrorIs(t, err, ErrLimit)
	require.ErrorIs(t, err, ErrNotSent, "the call was refused, not lost")
	require.ErrorContains(t, err, "established connections of clients")
	require.Equal(t, 3, b.Clients())
	mustCall(t, a, b.Addr(), "x")

	l := newClientLoad(0)
	require.True(t, l.begin("1", maxClientBytes))
	require.False(t, l.begin("1", 1), "one client")
	for i := 2; l.begin(fmt.Sprint(i), maxClientBytes); i++ {
		require.LessOrEqual(t, i, maxClientsBytes/maxClientBytes, "all clients")
	}
	l.end("1", maxClientBytes)
	require.True(t, l.begin("1", 1))
	require.Equal(t, 2048, newClientLoad(4096).all.conns)
}

// A call above the bound of a client, or of all, is known to be refused for that.
func TestCallAboveTheBoundOfClients(t *testing.T) {
	_, b := startPair(t)
	entered, leave := make(chan struct{}, 1), make(chan struct{})
	b.ServeClients(ClientHandler{Call: func(context.Context, byte, []byte) []byte {
		entered <- struct{}{}
		<-leave
		return nil
	}})
	b.clients.each.calls = 1
	c := clientOf(t, b)
	done := make(chan error, 1)
	go func() {
		_, err := c.Call(testContext(t), b.Addr(), 3, nil)
		done <- err
	}()
	<-entered
	_, err := c.Call(testContext(t), b.Addr(), 3, nil)
	require.ErrorIs(t, err, ErrLimit)
	require.ErrorIs(t, err, ErrNotSent)
	close(leave)
	require.NoError(t, <-done)
}

func TestClientStream(t *testing.T) {
	_, b := startPair(t)
	serveClients(b)
	c := clientOf(t, b)
	ctx := testContext(t)
	s, err := c.Open(ctx, b.Addr(), []byte("again"))
	require.NoError(t, err)
	for range 3 {
		m, err := s.Recv(ctx)
		require.NoError(t, err)
		require.Equal(t, "again", string(m))
	}
	read := make(chan error, 1)
	go func() {
		for {
			if _, err := s.Recv(ctx); err != nil {
				read <- err
				return
			}
		}
	}()
	reply, err := c.Call(ctx, b.Addr(), 3, []byte("x"))
	require.NoError(t, err, "a stream is in the way of calls")
	require.Equal(t, `"" 3 x`, string(reply))
	s.Close()
	require.ErrorIs(t, <-read, errStreamClosed)

	s, err = c.Open(ctx, b.Addr(), []byte("fail"))
	require.NoError(t, err)
	_, err = s.Recv(ctx)
	require.ErrorContains(t, err, "no such stream")

	s, err = c.Open(ctx, b.Addr(), []byte("until the node ends it"))
	require.NoError(t, err)
	b.closeConns()
	require.Eventually(t, func() bool { _, err := s.Recv(ctx); return err != nil }, 10*time.Second, time.Millisecond)
	c.Close()
	require.Eventually(t, func() bool { return b.clients.total() == nodeLoad{} }, 10*time.Second, time.Millisecond, "the load of a client is not given back")
}

// A client that does not read delays only its own stream, and the data that wait for it are
// bounded.
func TestSlowClientHoldsUpNobody(t *testing.T) {
	_, b := startPair(t)
	var pushed, waiting atomic.Int64 // waiting is the most after any push
	b.ServeClients(ClientHandler{
		Call: func(context.Context, byte, []byte) []byte { return []byte("reply") },
		Stream: func(_ context.Context, _ []byte, push func([]byte) error) error {
			for {
				if err := push(make([]byte, 64<<10)); err != nil {
					return err
				}
				waiting.Store(max(waiting.Load(), int64(b.clients.total().waiting)))
				pushed.Add(64 << 10)
			}
		},
	})
	slow, err := net.Dial("tcp", b.Addr())
	require.NoError(t, err)
	defer slow.Close()
	own := Hello{version: wireVersion, cluster: b.config.Cluster, ID: "slow"}
	_, err = own.greet(slow, KindClient, "")
	require.NoError(t, err)
	_, err = slow.Write(appendFrame(nil, frame{kind: frameOpen, id: 1}))
	require.NoError(t, err)
	last := int64(-1)
	require.Eventually(t, func() bool { // until the sockets are full
		now := pushed.Load()
		full := now > 0 && now == last
		last = now
		return full
	}, 10*time.Second, 300*time.Millisecond)
	require.LessOrEqual(t, waiting.Load(), int64(2*64<<10))
	for range 100 {
		_, err := clientOf(t, b).Call(testContext(t), b.Addr(), 3, nil)
		require.NoError(t, err)
	}
	slow.Close()
	require.Eventually(t, func() bool { return b.clients.total().waiting == 0 }, 10*time.Second, time.Millisecond)
}

// A node opens no streams for nodes.
func TestNodesHaveNoStreams(t *testing.T) {
	_, b := startPair(t)
	b.Serve(echo)
	conn := callBy(t, b, "c")
	_, err := conn.Write(appendFrame(nil, frame{kind: frameOpen, id: 1}))
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	_, err = conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
}
