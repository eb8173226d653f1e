package disk

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// lockFile takes the lock that lasts until unlockFile, or until the process ends.
func lockFile(f *os.File) error {
	const flags = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
	err := windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, &windows.Overlapped{})
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return ErrInUse
	}
	return err
}

// unlockFile ends the lock and closes f, which no child process has.
func unlockFile(f *os.File) error { return f.Close() }
