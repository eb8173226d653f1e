package keepalive

import (
	"context"
	"log/slog"
	"net"
	"time"
)

// Dialer dials like net.Dialer and applies a Config to every TCP connection it makes. A keepalive option never fails a
// dial: an option that the socket refuses is reported to OnError and Logger, and the connection is returned. The zero Dialer is ready to
// use, and one Dialer may be used by many goroutines as long as nobody changes it.
type Dialer struct {
	// Config is applied; the zero Config stands for Default.
	Config Config
	// Timeout bounds one dial, in addition to the context's deadline. Zero leaves Base's.
	Timeout time.Duration
	// Base holds everything else: local address, resolver, control functions. Its keepalive fields are not used, because
	// they would overwrite Config or one another. Nil stands for a zero net.Dialer.
	Base *net.Dialer
	// Wrapped makes DialContext return a *Conn instead of a bare *net.TCPConn, for libraries that set options of their
	// own on connections of a type that they recognise.
	Wrapped bool
	// Logger gets a warning for a connection without its options; nil is silent.
	Logger *slog.Logger
	// OnError is called for a connection without its options; nil is not called. It must not block.
	OnError func(remote net.Addr, err error)
}

// DialContext connects to the address and applies Config. Its errors are those of net.Dialer.DialContext; a connection
// that is not TCP is returned as it is.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	var nd net.Dialer
	if d.Base != nil {
		nd = *d.Base
	}
	if d.Timeout > 0 {
		nd.Timeout = d.Timeout
	}
	nd.KeepAlive, nd.KeepAliveConfig = noGoKeepAlive, net.KeepAliveConfig{}
	conn, err := nd.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if err := Apply(conn, d.Config); err != nil {
		report(ctx, d.Logger, d.OnError, conn, err)
	}
	if d.Wrapped {
		conn = Wrap(conn)
	}
	return conn, nil
}

// report calls OnError and the logger of a Dialer or Listener for one connection.
func report(ctx context.Context, log *slog.Logger, onError func(net.Addr, error), conn net.Conn, err error) {
	if log != nil {
		log.LogAttrs(ctx, slog.LevelWarn, "keepalive options not set",
			slog.Any("remote", conn.RemoteAddr()), slog.Any("error", err))
	}
	if onError != nil {
		onError(conn.RemoteAddr(), err)
	}
}
