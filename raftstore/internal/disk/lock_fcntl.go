//go:build solaris || aix

package disk

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// lockFile takes the lock that lasts until unlockFile, or until the process ends.
// Record locks belong to the process: a second node in the same process is not
// noticed here, but by its listen address.
func lockFile(f *os.File) error {
	err := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart})
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return ErrInUse
	}
	return err
}

// unlockFile ends the lock and closes f, which no child process has.
func unlockFile(f *os.File) error { return f.Close() }
