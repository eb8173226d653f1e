package keepalive

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"path/filepath"
	"testing"
)

// pair returns both ends of a loopback connection made without any option.
func pair(t testing.TB) (client, server *net.TCPConn) {
	t.Helper()
	lc := net.ListenConfig{KeepAlive: -1}
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	d := net.Dialer{KeepAlive: -1}
	c, err := d.DialContext(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		_ = c.Close()
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = c.Close(), s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

func effective(t testing.TB, conn net.Conn) Config {
	t.Helper()
	c, err := Effective(conn)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skipf("this system cannot read the values back: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// someConfig is one that every system with values per socket takes as it is, but for those with a fixed count.
func someConfig() Config {
	c, _ := Config{Idle: 33 * sec, Interval: 11 * sec, Count: 4, UserTimeout: 44 * sec}.Clamp()
	return c
}

// wrapper stands for the wrappers of other libraries: it hides everything but NetConn.
type wrapper struct{ net.Conn }

func (w wrapper) NetConn() net.Conn { return w.Conn }

// loop is a wrapper that leads nowhere.
type loop struct{ net.Conn }

func (l loop) NetConn() net.Conn { return l }

func TestApplyThroughWrappers(t *testing.T) {
	t.Parallel()
	for name, wrap := range map[string]func(net.Conn) net.Conn{
		"bare": func(c net.Conn) net.Conn { return c },
		"Wrap": Wrap,
		"tls": func(c net.Conn) net.Conn {
			return tls.Client(c, &tls.Config{ServerName: "x", MinVersion: tls.VersionTLS13})
		},
		"NetConn": func(c net.Conn) net.Conn { return wrapper{c} },
		"three deep": func(c net.Conn) net.Conn {
			return tls.Client(wrapper{Wrap(c)}, &tls.Config{ServerName: "x", MinVersion: tls.VersionTLS13})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bare, _ := pair(t)
			conn := wrap(bare)
			if err := Apply(conn, someConfig()); err != nil {
				t.Fatal(err)
			}
			if got := effective(t, bare); got != someConfig() {
				t.Errorf("the socket holds %v, want %v", got, someConfig())
			}
			if got := effective(t, conn); got != someConfig() {
				t.Errorf("through the wrapper the socket holds %v, want %v", got, someConfig())
			}
		})
	}
}

func TestZeroConfigIsTheDefault(t *testing.T) {
	t.Parallel()
	conn, _ := pair(t)
	if err := Apply(conn, Config{}); err != nil {
		t.Fatal(err)
	}
	if got := effective(t, conn); got != Default() {
		t.Errorf("the socket holds %v, want %v", got, Default())
	}
}

func TestOtherConnectionsAreLeftAlone(t *testing.T) {
	t.Parallel()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	path := filepath.Join(t.TempDir(), "s")
	ln, err := Listen(t.Context(), "unix", path, someConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	d := Dialer{Config: someConfig(), Wrapped: true, OnError: func(_ net.Addr, err error) { t.Error(err) }}
	stream, err := d.DialContext(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	packets, err := d.DialContext(t.Context(), "udp", "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer packets.Close()
	for name, conn := range map[string]net.Conn{
		"net.Pipe": a, "unix": stream, "unix, accepted": accepted, "udp": packets, "wrapped pipe": wrapper{b},
		"endless wrapper": loop{a}, "nil": nil,
	} {
		if err := Apply(conn, someConfig()); err != nil {
			t.Errorf("%s: Apply: %v", name, err)
		}
		if _, err := Effective(conn); !errors.Is(err, ErrNotTCP) {
			t.Errorf("%s: Effective: %v, want ErrNotTCP", name, err)
		}
		if conn != nil && Wrap(conn) != conn {
			t.Errorf("%s: Wrap changed a connection that is no *net.TCPConn", name)
		}
	}
}

func TestApplyReportsAClosedConnection(t *testing.T) {
	t.Parallel()
	conn, _ := pair(t)
	_ = conn.Close()
	if err := Apply(conn, someConfig()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Apply: %v, want net.ErrClosed", err)
	}
	if _, err := Effective(conn); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Effective: %v, want net.ErrClosed", err)
	}
}

// A sandbox or kernel that accepts an option and ignores it is found by reading back.
func TestVerify(t *testing.T) {
	t.Parallel()
	want := Config{15 * sec, 3 * sec, 3, 17 * sec}
	if err := verify(want, want); err != nil {
		t.Error(err)
	}
	for _, got := range []Config{
		{7200 * sec, 3 * sec, 3, 17 * sec},
		{15 * sec, 75 * sec, 3, 17 * sec},
		{15 * sec, 3 * sec, 9, 17 * sec},
		{15 * sec, 3 * sec, 3, 0},
		{},
	} {
		if err := verify(want, got); err == nil {
			t.Errorf("%v passes for %v", got, want)
		}
	}
	want.UserTimeout = 0
	if err := verify(want, Config{15 * sec, 3 * sec, 3, 300 * sec}); err != nil {
		t.Errorf("a system's own user timeout: %v", err)
	}
}

func TestListenAppliesToAcceptedConnections(t *testing.T) {
	t.Parallel()
	plain := func(ctx context.Context) (net.Listener, error) {
		lc := net.ListenConfig{} // sets Go's 15 s, 15 s, 9 on accepted connections
		lc.SetMultipathTCP(false)
		return lc.Listen(ctx, "tcp", "127.0.0.1:0")
	}
	for name, listen := range map[string]func() (net.Listener, error){
		"Listen": func() (net.Listener, error) { return Listen(t.Context(), "tcp", "127.0.0.1:0", someConfig()) },
		"NewListener": func() (net.Listener, error) {
			ln, err := plain(t.Context())
			return NewListener(ln, someConfig()), err
		},
		"Wrapped": func() (net.Listener, error) {
			ln, err := plain(t.Context())
			return &Listener{Listener: ln, Config: someConfig(), Wrapped: true}, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := listen()
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			d := Dialer{Config: someConfig()}
			client, err := d.DialContext(t.Context(), "tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			server, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			for _, conn := range []net.Conn{client, server} {
				if got := effective(t, conn); got != someConfig() {
					t.Errorf("the socket of %T holds %v, want %v", conn, got, someConfig())
				}
			}
			if _, bare := server.(*net.TCPConn); bare == (name == "Wrapped") {
				t.Errorf("Accept returned %T", server)
			}
		})
	}
}

// accepting is a listener whose connections can no longer take an option.
type accepting struct {
	net.Listener
	conn net.Conn
}

func (a accepting) Accept() (net.Conn, error) { return a.conn, nil }

func TestAcceptNeverFailsForAnOption(t *testing.T) {
	t.Parallel()
	conn, _ := pair(t)
	_ = conn.Close()
	var reported error
	ln := &Listener{Listener: accepting{conn: conn}, OnError: func(_ net.Addr, err error) { reported = err }}
	got, err := ln.Accept()
	if err != nil || got != net.Conn(conn) {
		t.Errorf("Accept returned %v, %v", got, err)
	}
	if !errors.Is(reported, net.ErrClosed) {
		t.Errorf("reported: %v, want net.ErrClosed", reported)
	}
}

func TestAcceptPassesTheListenersError(t *testing.T) {
	t.Parallel()
	ln, err := Listen(t.Context(), "tcp", "127.0.0.1:0", Config{})
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept on a closed listener: %v", err)
	}
	if _, err := Listen(t.Context(), "tcp", "127.0.0.1:70000", Config{}); err == nil {
		t.Error("Listen on an impossible port returned no error")
	}
}
