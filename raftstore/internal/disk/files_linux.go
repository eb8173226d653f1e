package disk

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Sync implements File. The time of the last change need not be durable.
func (f osFile) Sync() error {
	return f.control("fdatasync", unix.Fdatasync)
}

// Allocate implements File.
func (f osFile) Allocate(size int64) error {
	err := f.control("fallocate", func(fd int) error { return unix.Fallocate(fd, 0, 0, size) })
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return f.grow(size)
	}
	return err
}

// DropCache implements File.
func (f osFile) DropCache() {
	_ = f.control("fadvise", func(fd int) error { return unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED) })
}

// control calls f with the file's descriptor, again after a signal.
func (f osFile) control(op string, call func(fd int) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = conn.Control(func(fd uintptr) {
		for {
			if failed = call(int(fd)); !errors.Is(failed, unix.EINTR) {
				return
			}
		}
	})
	if err != nil {
		return err
	}
	return os.NewSyscallError(op, failed)
}
