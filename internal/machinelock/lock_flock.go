//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package machinelock

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// flock locks f until it is closed. Child processes do not inherit f, so that the
// lock ends with the process.
func flock(f *os.File, m mode) error {
	how := unix.LOCK_EX
	if m == shared {
		how = unix.LOCK_SH
	}
	for {
		if err := unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
