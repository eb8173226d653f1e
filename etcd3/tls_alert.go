package etcd3

import (
	"context"
	"net"
	"time"

	"google.golang.org/grpc/credentials"

	files "github.com/holdfast-dcs/holdfast/internal/credentials"
)

// tlsAlertCreds returns the TLS alert behind a failed write. In TLS 1.3 a server rejects
// a client certificate after the handshake is complete for the client. gRPC writes
// first and detects only that the connection was reset, while the alert is still unread.
// Each connection uses the configuration of the moment at which it is made.
type tlsAlertCreds struct {
	credentials.TransportCredentials
	tls *files.TLS
}

func (t tlsAlertCreds) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, info, err := credentials.NewTLS(t.tls.Config()).ClientHandshake(ctx, authority, raw)
	if err != nil {
		return c, info, err
	}
	return &tlsAlertConn{c}, info, nil
}

func (t tlsAlertCreds) Clone() credentials.TransportCredentials {
	return tlsAlertCreds{t.TransportCredentials.Clone(), t.tls}
}

type tlsAlertConn struct{ net.Conn }

// alertTimeout bounds the reading of an alert that has arrived already.
const alertTimeout = 50 * time.Millisecond

func (c *tlsAlertConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err == nil {
		return n, nil
	}
	_ = c.SetReadDeadline(time.Now().Add(alertTimeout)) //nolint:forbidigo // a deadline of the socket's
	if _, alert := c.Read(make([]byte, 1)); alert != nil && containsAny(alert.Error(), certificates) {
		err = alert
	}
	return n, err
}
