package etcd3

import (
	"context"
	"net"
	"time"

	"google.golang.org/grpc/credentials"

	files "github.com/holdfast-dcs/holdfast/internal/credentials"
)

// telling makes a connection tell why the server ended it. In TLS 1.3 a server
// refuses our certificate when the handshake is over for us: the refusal waits
// to be read while writing only finds the connection reset, and gRPC writes
// first. Each connection has the configuration of its time.
type telling struct {
	credentials.TransportCredentials
	tls *files.TLS
}

func (t telling) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, info, err := credentials.NewTLS(t.tls.Config()).ClientHandshake(ctx, authority, raw)
	if err != nil {
		return c, info, err
	}
	return &tellingConn{c}, info, nil
}

func (t telling) Clone() credentials.TransportCredentials {
	return telling{t.TransportCredentials.Clone(), t.tls}
}

type tellingConn struct{ net.Conn }

// lastWords bounds the reading of what is there already.
const lastWords = 50 * time.Millisecond

func (c *tellingConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err == nil {
		return n, nil
	}
	_ = c.SetReadDeadline(time.Now().Add(lastWords)) //nolint:forbidigo // a deadline of the socket's
	if _, why := c.Read(make([]byte, 1)); why != nil && containsAny(why.Error(), certificates) {
		err = why
	}
	return n, err
}
