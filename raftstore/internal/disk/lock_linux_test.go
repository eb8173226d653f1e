package disk_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A lock ends although a child process that is being started has the file too. A copy of
// the descriptor stands for that of the child.
func TestLockEndsWhileAChildIsStarted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	requireLock(t, path, func() {
		inherited, err := unix.Dup(descriptor(t, path))
		require.NoError(t, err)
		t.Cleanup(func() { unix.Close(inherited) })
	})
}

// descriptor returns the descriptor of this process for a file.
func descriptor(t *testing.T, path string) int {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	for _, d := range open {
		if at, err := os.Readlink(filepath.Join("/proc/self/fd", d.Name())); err == nil && at == path {
			var n int
			_, err := fmt.Sscan(d.Name(), &n)
			require.NoError(t, err)
			return n
		}
	}
	t.Fatal("the file is not open: ", path)
	return 0
}
