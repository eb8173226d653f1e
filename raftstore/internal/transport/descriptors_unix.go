//go:build !windows

package transport

import "golang.org/x/sys/unix"

// descriptorLimit returns how many descriptors this process may have, 0 if
// that is not known.
func descriptorLimit() uint64 {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 0
	}
	return uint64(r.Cur) //nolint:unconvert,nolintlint // int64 on FreeBSD
}
