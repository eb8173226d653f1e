package dcs

import (
	"time"

	"golang.org/x/sys/unix"
)

// systemSlept reads CLOCK_BOOTTIME between two readings of CLOCK_MONOTONIC:
// the difference to the later one is a lower bound of the time asleep, that to
// the earlier one an upper bound.
func systemSlept() (low, high time.Duration) {
	var before, boot, after unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &before) != nil ||
		unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil ||
		unix.ClockGettime(unix.CLOCK_MONOTONIC, &after) != nil {
		return 0, 0
	}
	return time.Duration(boot.Nano() - after.Nano()), time.Duration(boot.Nano() - before.Nano())
}
