package keepalive

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// echoless is a listener that accepts and keeps connections until the test ends.
func echoless(t testing.TB) string {
	t.Helper()
	ln, err := Listen(t.Context(), "tcp", "127.0.0.1:0", Config{})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var conns []net.Conn
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns = append(conns, c)
		}
	}()
	t.Cleanup(func() {
		_ = ln.Close()
		<-done
		for _, c := range conns {
			_ = c.Close()
		}
	})
	return ln.Addr().String()
}

func dialWith(t testing.TB, d interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}, address string,
) net.Conn {
	t.Helper()
	conn, err := d.DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// Every value that Clamp lets through is taken by the kernel and read back as it was set, over the whole range of the
// type and at every edge. One socket is enough: the kernel checks each value again.
func TestKernelTakesEveryClampedValue(t *testing.T) {
	t.Parallel()
	conn, _ := pair(t)
	check := func(in Config) {
		t.Helper()
		want, _ := in.Clamp()
		if err := Apply(conn, in); err != nil {
			t.Fatalf("%v: %v", in, err)
		}
		if in == (Config{}) {
			want = Default()
		}
		if got := effective(t, conn); got != want {
			t.Fatalf("%v: the socket holds %v, want %v", in, got, want)
		}
	}
	edges := []time.Duration{
		math.MinInt64, -1, 0, 1, ms - 1, ms, sec - 1, sec, sec + 1, 32766 * sec, 32767 * sec, 32767*sec + 1, 32768 * sec,
		math.MaxInt32 * ms, math.MaxInt32*ms + 1, math.MaxInt64,
	}
	for _, d := range edges {
		for _, n := range []int{math.MinInt, -1, 0, 1, 126, 127, 128, math.MaxInt} {
			check(Config{Idle: d, Interval: d, Count: n, UserTimeout: d})
		}
	}
	r := rand.New(rand.NewPCG(5, 6))
	for range 3_000 {
		check(anyConfig(r))
		c, _ := Derive(anyDuration(r), anyDuration(r))
		check(c)
	}
}

// The table is the kernel's own: one step outside of each edge is EINVAL.
func TestKernelRefusesWhatIsOutside(t *testing.T) {
	t.Parallel()
	conn, _ := pair(t)
	rc, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for name, option := range map[string]struct{ number, least, most int }{
		"TCP_KEEPIDLE":  {unix.TCP_KEEPIDLE, 1, 32767},
		"TCP_KEEPINTVL": {unix.TCP_KEEPINTVL, 1, 32767},
		"TCP_KEEPCNT":   {unix.TCP_KEEPCNT, 1, 127},
	} {
		for value, want := range map[int]error{
			option.least: nil, option.most: nil, option.least - 1: unix.EINVAL, option.most + 1: unix.EINVAL,
		} {
			var got error
			if err := rc.Control(func(fd uintptr) {
				got = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, option.number, value)
			}); err != nil {
				t.Fatal(err)
			}
			if !errors.Is(got, want) {
				t.Errorf("%s = %d: %v, want %v", name, value, got, want)
			}
		}
	}
}

// Trap: Go's Dial swallows the error of a keepalive option and leaves the socket at two hours.
func TestTrapDialSwallowsErrors(t *testing.T) {
	t.Parallel()
	address := echoless(t)
	want := Config{40000 * sec, 33326 * sec, 3, 0}
	plain := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: want.Idle, Interval: want.Interval, Count: 3}}
	if got := effective(t, dialWith(t, plain, address)); got != (Config{7200 * sec, 75 * sec, 9, 0}) {
		t.Errorf("net.Dialer leaves the socket at %v: the trap is gone, or the system's defaults were changed", got)
	}
	ours := &Dialer{Config: want, OnError: func(_ net.Addr, err error) { t.Error(err) }}
	if got := effective(t, dialWith(t, ours, address)); got != (Config{32767 * sec, 32767 * sec, 3, 0}) {
		t.Errorf("the socket holds %v", got)
	}
}

// Trap: net.Dialer's default keepalive runs after Control and overwrites its settings.
func TestTrapDefaultOverwritesControl(t *testing.T) {
	t.Parallel()
	address := echoless(t)
	want := Config{4 * sec, 2 * sec, 3, 9 * sec}
	if got := effective(t, dialWith(t, &net.Dialer{Control: want.Control}, address)); got != (Config{15 * sec, 15 * sec, 9, 9 * sec}) {
		t.Errorf("net.Dialer leaves the socket at %v: the trap is gone", got)
	}
	if got := effective(t, dialWith(t, &net.Dialer{Control: want.Control, KeepAlive: -1}, address)); got != want {
		t.Errorf("with KeepAlive -1 the socket holds %v, want %v", got, want)
	}
	for name, base := range map[string]*net.Dialer{
		"zero":            {},
		"KeepAlive":       {KeepAlive: time.Minute},
		"KeepAliveConfig": {KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: time.Minute}},
		"Control":         {Control: Config{8 * sec, 8 * sec, 8, 8 * sec}.Control},
	} {
		before := *base
		if got := effective(t, dialWith(t, &Dialer{Config: want, Base: base}, address)); got != want {
			t.Errorf("base with %s: the socket holds %v, want %v", name, got, want)
		}
		if base.KeepAlive != before.KeepAlive || base.KeepAliveConfig != before.KeepAliveConfig {
			t.Errorf("base with %s was changed", name)
		}
	}
}

// setUserTimeoutLikeGRPC sets the option as google.golang.org/grpc/internal/syscall.SetTCPUserTimeout does.
func setUserTimeoutLikeGRPC(conn net.Conn, timeout time.Duration) error {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	rc, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	return rc.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(timeout/time.Millisecond))
	})
}

// Trap: gRPC overwrites TCP_USER_TIMEOUT on a bare *net.TCPConn.
func TestTrapUserTimeoutOnABareTCPConn(t *testing.T) {
	t.Parallel()
	address := echoless(t)
	want := Config{4 * sec, 2 * sec, 3, 9 * sec}
	for _, wrapped := range []bool{false, true} {
		conn := dialWith(t, &Dialer{Config: want, Wrapped: wrapped}, address)
		if _, bare := conn.(*net.TCPConn); bare == wrapped {
			t.Fatalf("Wrapped %v: the connection is a %T", wrapped, conn)
		}
		if err := setUserTimeoutLikeGRPC(conn, 20*sec); err != nil {
			t.Fatal(err)
		}
		overwritten := effective(t, conn).UserTimeout == 20*sec
		if overwritten == wrapped {
			t.Errorf("Wrapped %v: the socket holds %v", wrapped, effective(t, conn))
		}
	}
}

func TestEffectiveTellsThatKeepaliveIsOff(t *testing.T) {
	t.Parallel()
	conn, _ := pair(t)
	if err := Apply(conn, Config{4 * sec, 2 * sec, 3, 9 * sec}); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetKeepAlive(false); err != nil {
		t.Fatal(err)
	}
	if got := effective(t, conn); got != (Config{UserTimeout: 9 * sec}) {
		t.Errorf("with keepalive off: %v", got)
	}
	if err := Apply(conn, Config{4 * sec, 2 * sec, 3, 0}); err != nil {
		t.Fatal(err)
	}
	if got := effective(t, conn); got != (Config{4 * sec, 2 * sec, 3, 0}) {
		t.Errorf("a user timeout that was set stays although zero was asked for: %v", got)
	}
}

// No TTL and no Config of any kind fails a dial, an accept or an option.
func TestNoTTLFailsADial(t *testing.T) {
	t.Parallel()
	address := echoless(t)
	for _, ttl := range []time.Duration{math.MinInt64, -sec, 0, 1, sec, 99999 * sec, math.MaxInt64} {
		for _, loop := range []time.Duration{math.MinInt64, 0, 10 * sec, math.MaxInt64} {
			c, _ := Derive(ttl, loop)
			d := &Dialer{Config: c, OnError: func(_ net.Addr, err error) { t.Errorf("ttl %d: %v", ttl, err) }}
			if got := effective(t, dialWith(t, d, address)); got != c {
				t.Errorf("ttl %d: the socket holds %v, want %v", ttl, got, c)
			}
		}
		d := &Dialer{Config: Config{ttl, ttl, int(ttl), ttl}, OnError: func(_ net.Addr, err error) { t.Error(err) }}
		dialWith(t, d, address)
	}
}

// A dial whose options fail returns the connection and calls OnError and the logger. A Multipath TCP socket is one that
// refuses TCP_USER_TIMEOUT; it is also why Listen turns Multipath TCP off.
func TestDialNeverFailsForAnOption(t *testing.T) {
	t.Parallel()
	var lc net.ListenConfig
	lc.SetMultipathTCP(true)
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var base net.Dialer
	base.SetMultipathTCP(true)
	var buf bytes.Buffer
	var reported error
	d := &Dialer{
		Config: Config{4 * sec, 2 * sec, 3, 9 * sec}, Base: &base, Wrapped: true,
		Logger: slog.New(slog.NewTextHandler(&buf, nil)), OnError: func(_ net.Addr, err error) { reported = err },
	}
	conn := dialWith(t, d, ln.Addr().String())
	if multipath, err := conn.(*Conn).MultipathTCP(); err != nil || !multipath {
		t.Skipf("this kernel has no Multipath TCP to refuse an option (%v)", err)
	}
	if reported == nil || !strings.Contains(reported.Error(), "TCP_USER_TIMEOUT") {
		t.Errorf("reported: %v", reported)
	}
	if !strings.Contains(buf.String(), "level=WARN") || !strings.Contains(buf.String(), "TCP_USER_TIMEOUT") ||
		!strings.Contains(buf.String(), ln.Addr().String()) {
		t.Errorf("logged: %s", buf.String())
	}
	// The options that the socket does take are set all the same.
	rc, err := conn.(*Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := rc.Control(func(fd uintptr) {
		if idle, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPIDLE); idle != 4 || err != nil {
			t.Errorf("idle %d, %v", idle, err)
		}
	}); err != nil {
		t.Error(err)
	}
}

// Listen turns Multipath TCP off even for a client that offers it, and gives the listening socket the values too.
func TestListenTakesNoMultipathAndSetsTheListener(t *testing.T) {
	t.Parallel()
	want := Config{4 * sec, 2 * sec, 3, 9 * sec}
	ln, err := Listen(t.Context(), "tcp", "127.0.0.1:0", want)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	rc, err := ln.(*Listener).Listener.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var held Config
	if err := onTCP(rc, func(fd uintptr) (err error) { held, err = getOptions(fd); return err }); err != nil || held != want {
		t.Errorf("the listening socket holds %v, %v; want %v", held, err, want)
	}
	var offering net.Dialer
	offering.SetMultipathTCP(true)
	dialWith(t, &offering, ln.Addr().String())
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	if multipath, err := accepted.(*net.TCPConn).MultipathTCP(); err != nil || multipath {
		t.Errorf("the accepted connection is Multipath TCP: %v, %v", multipath, err)
	}
	if got := effective(t, accepted); got != want {
		t.Errorf("the accepted socket holds %v, want %v", got, want)
	}
}

func TestDialReturnsTheDialersError(t *testing.T) {
	t.Parallel()
	ln, err := Listen(t.Context(), "tcp", "127.0.0.1:0", Config{})
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().String()
	_ = ln.Close()
	var op *net.OpError
	if _, err := (&Dialer{Wrapped: true}).DialContext(t.Context(), "tcp", address); !errors.As(err, &op) ||
		!errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a closed port: %v", err)
	}
	d := &Dialer{Timeout: time.Nanosecond}
	if _, err := d.DialContext(t.Context(), "tcp", echoless(t)); !errors.As(err, &op) || !op.Timeout() {
		t.Errorf("a timeout of 1 ns: %v", err)
	}
}
