package listener_test

import (
	"net"
	"runtime"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/internal/listener"
)

// A process that is being started has such a copy.
func TestCopyEndsToo(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux can end the copies of a listener")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	file, err := l.(*net.TCPListener).File()
	require.NoError(t, err)
	defer file.Close()
	require.NoError(t, listener.Close(l))
	_, err = net.Dial("tcp", l.Addr().String())
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	again, err := net.Listen("tcp", l.Addr().String())
	require.NoError(t, err)
	require.NoError(t, again.Close())
}

func TestCloseTwice(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close(l))
	require.ErrorIs(t, listener.Close(l), net.ErrClosed)
}

// other is a listener without a socket.
type other struct{ net.Listener }

func (other) Close() error { return syscall.EBADF }

func TestCloseWithoutASocket(t *testing.T) {
	require.Equal(t, syscall.EBADF, listener.Close(other{}))
}
