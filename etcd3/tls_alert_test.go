package etcd3

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// brokenConn is a connection that was reset while an answer is unread.
type brokenConn struct {
	net.Conn
	waits error
}

func (c *brokenConn) Write([]byte) (int, error)       { return 0, syscall.ECONNRESET }
func (c *brokenConn) Read([]byte) (int, error)        { return 0, c.waits }
func (c *brokenConn) SetReadDeadline(time.Time) error { return nil }

// A write that fails because the server rejected the certificate returns the TLS alert
// and not the reset of the connection.
func TestFailedWriteReturnsTheTLSAlert(t *testing.T) {
	_, err := (&tlsAlertConn{&brokenConn{waits: errors.New("remote error: tls: expired certificate")}}).Write([]byte("x"))
	require.ErrorContains(t, err, "expired certificate")
	_, err = (&tlsAlertConn{&brokenConn{waits: io.EOF}}).Write([]byte("x"))
	require.ErrorIs(t, err, syscall.ECONNRESET)
}
