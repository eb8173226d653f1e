package keepalive

import (
	"context"
	"log/slog"
	"net"
)

// Listener applies a Config to every TCP connection it accepts. An option that cannot be set never fails Accept: it is
// reported and the connection returned.
type Listener struct {
	// Listener is the one that accepts.
	net.Listener
	// Config is applied; the zero Config stands for Default.
	Config Config
	// Wrapped makes Accept return a *Conn instead of a bare *net.TCPConn (see Conn).
	Wrapped bool
	// Logger gets a warning for a connection without its options; nil is silent.
	Logger *slog.Logger
	// OnError is called for a connection without its options; nil is not called. It must not block.
	OnError func(remote net.Addr, err error)
}

// Accept waits for the next connection and applies Config to it.
func (l *Listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if err := Apply(conn, l.Config); err != nil {
		report(context.Background(), l.Logger, l.OnError, conn, err)
	}
	if l.Wrapped {
		conn = Wrap(conn)
	}
	return conn, nil
}

// NewListener returns a *Listener around ln that applies c. Put it below a TLS listener, so that the options are set
// before the handshake. Settings of ln's own net.ListenConfig are overwritten.
func NewListener(ln net.Listener, c Config) net.Listener { return &Listener{Listener: ln, Config: c} }

// Listen listens like net.ListenConfig.Listen and returns a *Listener that applies c to every accepted connection. The
// listening socket gets the values too, so that systems where accepted connections inherit them have them at once.
// Multipath TCP, which Go turns on by default and which knows no user timeout, is off.
func Listen(ctx context.Context, network, address string, c Config) (net.Listener, error) {
	lc := net.ListenConfig{Control: c.Control, KeepAlive: noGoKeepAlive}
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return NewListener(ln, c), nil
}
