package guardian

import (
	"os"

	"golang.org/x/sys/unix"
)

// newTimer returns a timer on CLOCK_BOOTTIME, or -1.
func newTimer() int {
	fd, err := unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return -1
	}
	return fd
}

// setTimer sets the timer to the reading at of CLOCK_BOOTTIME, and reports whether it
// can. A timer that is set is not readable before.
func setTimer(timer int, at int64) bool {
	if timer < 0 {
		return false
	}
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(max(at, 1))} // 0 would stop it
	return unix.TimerfdSettime(timer, unix.TFD_TIMER_ABSTIME, &spec, nil) == nil
}

// protectChild keeps the memory of the child from being swapped out, and the child from
// being ended when memory is short, as far as the process may.
func protectChild() {
	_ = unix.Mlockall(unix.MCL_CURRENT | unix.MCL_ONFAULT)
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0)
}
