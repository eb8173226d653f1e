package testcluster

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// ClosingServer returns the address of a server that closes every new connection, like a
// server at its limit of connections.
func ClosingServer(tb testing.TB) string {
	tb.Helper()
	l, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	tb.Cleanup(func() { l.Close() })
	go func() { // until the listener is closed
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	return l.Addr().String()
}
