package guardian

import (
	"os"
	"strconv"

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

// protectChild keeps the memory of the child from being swapped out, the child from
// being ended when memory is short, and other programs from taking its processor, as far
// as the process may.
func protectChild() {
	tasks, _ := os.ReadDir("/proc/self/task")
	for _, t := range tasks { // later threads inherit it
		if tid, err := strconv.Atoi(t.Name()); err == nil {
			_ = setPriority(tid, unix.SCHED_RR, 1)
		}
	}
	_ = unix.Mlockall(unix.MCL_CURRENT | unix.MCL_ONFAULT)
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0)
}

// usualPriority gives this thread, and the programs that it starts, the usual priority.
func usualPriority() { _ = setPriority(0, unix.SCHED_NORMAL, 0) }

func setPriority(tid int, policy, priority uint32) error {
	return unix.SchedSetAttr(tid, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: policy, Priority: priority}, 0)
}
