package dcs

import (
	"time"

	"golang.org/x/sys/unix"
)

// systemBootClock reads CLOCK_BOOTTIME, which is CLOCK_MONOTONIC plus the time that
// the machine was suspended.
func systemBootClock() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return 0 // a kernel before 2.6.39: no time asleep is known
	}
	return time.Duration(t.Nano())
}
