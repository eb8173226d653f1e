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

// brokenConn was reset while an answer waits to be read.
type brokenConn struct {
	net.Conn
	waits error
}

func (c *brokenConn) Write([]byte) (int, error)       { return 0, syscall.ECONNRESET }
func (c *brokenConn) Read([]byte) (int, error)        { return 0, c.waits }
func (c *brokenConn) SetReadDeadline(time.Time) error { return nil }

// A certificate that the server refused is told as that, though writing found
// the connection reset first.
func TestTheServersLastWordsAreTold(t *testing.T) {
	_, err := (&tellingConn{&brokenConn{waits: errors.New("remote error: tls: expired certificate")}}).Write([]byte("x"))
	require.ErrorContains(t, err, "expired certificate")
	_, err = (&tellingConn{&brokenConn{waits: io.EOF}}).Write([]byte("x"))
	require.ErrorIs(t, err, syscall.ECONNRESET)
}
