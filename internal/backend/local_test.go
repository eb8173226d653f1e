package backend

import (
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/internal/endpoint"
)

func TestLocalCausesAreRecognised(t *testing.T) {
	dial := func(n syscall.Errno) error {
		return &net.OpError{Op: "dial", Err: os.NewSyscallError("socket", n)}
	}
	for _, err := range []error{endpoint.ErrDials, dial(syscall.EMFILE), dial(syscall.ENFILE), dial(syscall.EADDRNOTAVAIL)} {
		require.True(t, IsLocal(err))
		require.True(t, IsLocalText(fmt.Sprintf("connection error: desc = %q", err.Error())), err)
	}
	require.False(t, IsLocal(dial(syscall.ECONNREFUSED)))
	require.False(t, IsLocalText(dial(syscall.ECONNREFUSED).Error()))
}
