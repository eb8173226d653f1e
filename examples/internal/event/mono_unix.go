//go:build linux || darwin || freebsd || openbsd || dragonfly || solaris

package event

import "golang.org/x/sys/unix"

// Mono returns CLOCK_MONOTONIC in nanoseconds.
func Mono() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0
	}
	return ts.Nano()
}
