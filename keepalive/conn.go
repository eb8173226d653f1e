package keepalive

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"
)

// ErrNotTCP is returned by Effective for a connection that has no TCP socket to read from.
var ErrNotTCP = errors.New("keepalive: not a TCP connection")

// maxWrappers bounds the search through wrapped connections, so that a wrapper that returns itself ends it.
const maxWrappers = 16

// Apply turns keepalive on for conn and sets the values of c, moved into the system's limits, then reads them back: an
// error means that the socket does not hold them, and every option that could be set has been. The connection stays
// usable in any case. Wrapped connections are followed through SyscallConn and NetConn (crypto/tls); a connection that is
// not TCP (net.Pipe, a Unix socket) is left alone without an error.
func Apply(conn net.Conn, c Config) error {
	rc, err := rawConn(conn)
	if rc == nil || err != nil {
		return err
	}
	return applyRaw(rc, c)
}

// Effective reads the values that conn's socket holds now. Idle, Interval and Count are zero when keepalive is off. It
// returns ErrNotTCP for anything but TCP, and an error that is errors.ErrUnsupported where the system does not report it (OpenBSD,
// Windows before 1709). Without a user timeout some systems (illumos, Solaris, Windows) report their own default there.
func Effective(conn net.Conn) (Config, error) {
	rc, err := rawConn(conn)
	if err != nil {
		return Config{}, err
	}
	if rc == nil {
		return Config{}, ErrNotTCP
	}
	var c Config
	err = onTCP(rc, func(fd uintptr) (err error) {
		c, err = getOptions(fd)
		return err
	})
	return c, err
}

// Control is a function for net.Dialer.Control and net.ListenConfig.Control that sets the values before the socket is
// connected or listens. It always returns nil, because a keepalive option is no reason to fail a dial: a caller that needs to
// know asks Effective. Set net.Dialer.KeepAlive to -1 as well, or Go's default overwrites these settings.
func (c Config) Control(_, _ string, rc syscall.RawConn) error {
	_ = applyRaw(rc, c)
	return nil
}

// applyRaw sets and verifies the values on a socket that may turn out not to be TCP.
func applyRaw(rc syscall.RawConn, c Config) error {
	want, _ := c.orDefault().Clamp()
	err := onTCP(rc, func(fd uintptr) error {
		if err := setOptions(fd, want); err != nil {
			return err
		}
		got, err := getOptions(fd)
		if errors.Is(err, errors.ErrUnsupported) {
			return nil
		}
		if err != nil {
			return err
		}
		return verify(want, got)
	})
	if errors.Is(err, ErrNotTCP) {
		return nil
	}
	return err
}

// verify compares the requested values with those of the socket: some kernels and sandboxes accept an option and
// ignore it.
func verify(want, got Config) error {
	if want.UserTimeout == 0 {
		got.UserTimeout = 0 // some systems report a default of their own
	}
	if got != want {
		return fmt.Errorf("keepalive: the socket holds %v, not %v as it was set", got, want)
	}
	return nil
}

// onTCP runs f on the descriptor, or returns ErrNotTCP.
func onTCP(rc syscall.RawConn, f func(fd uintptr) error) error {
	var inner error
	err := rc.Control(func(fd uintptr) {
		tcp, err := isTCP(fd)
		switch {
		case err != nil:
			inner = err
		case !tcp:
			inner = ErrNotTCP
		default:
			inner = f(fd)
		}
	})
	if err != nil {
		return fmt.Errorf("keepalive: %w", err)
	}
	return inner
}

// rawConn finds the socket under any number of wrappers; nil without an error means that there is none.
func rawConn(conn net.Conn) (syscall.RawConn, error) {
	for range maxWrappers {
		if sc, ok := conn.(syscall.Conn); ok {
			rc, err := sc.SyscallConn()
			if err != nil {
				return nil, fmt.Errorf("keepalive: %w", err)
			}
			return rc, nil
		}
		wrapper, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return nil, nil
		}
		conn = wrapper.NetConn()
	}
	return nil, nil
}

// String prints the values the way the messages do: "idle 15s, interval 3s, count 3, user timeout 17s".
func (c Config) String() string {
	ut := "off"
	if c.UserTimeout > 0 {
		ut = words(c.UserTimeout)
	}
	return fmt.Sprintf("idle %s, interval %s, count %d, user timeout %s", words(c.Idle), words(c.Interval), c.Count, ut)
}

// Conn is a TCP connection that is not a *net.TCPConn to a type assertion, and so keeps its options: gRPC, for one, sets
// TCP_USER_TIMEOUT to its own keepalive timeout on every bare *net.TCPConn. All methods of the TCP connection, SyscallConn
// among them, stay reachable.
type Conn struct {
	*net.TCPConn
}

// Wrap returns conn as a *Conn if it is a bare *net.TCPConn, and conn itself otherwise.
func Wrap(conn net.Conn) net.Conn {
	if tcp, ok := conn.(*net.TCPConn); ok {
		return &Conn{TCPConn: tcp}
	}
	return conn
}

// noGoKeepAlive keeps net.Dialer and net.ListenConfig from setting values of their own.
const noGoKeepAlive = time.Duration(-1)
