package dcs

import (
	"os"

	"golang.org/x/sys/unix"
)

// bootTimer rings by CLOCK_BOOTTIME, which goes on while the machine sleeps:
// Go's own timers stand still then and would be late by as much.
type bootTimer struct{ file *os.File }

// newBootTimer returns nil where the kernel has none to give, and in a bubble.
func newBootTimer(ring func(), spawn func(func())) *bootTimer {
	if inBubble() {
		return nil
	}
	fd, err := unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil
	}
	b := &bootTimer{file: os.NewFile(uintptr(fd), "timerfd")}
	spawn(func() {
		var ticks [8]byte
		for {
			if _, err := b.file.Read(ticks[:]); err != nil {
				return
			}
			ring()
		}
	})
	return b
}

func (b *bootTimer) set(at Instant) {
	// The clock first and the time left after it: preempted between the two,
	// the timer is set too early, never too late.
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return
	}
	left := max(-at.Elapsed(), 0)
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(now.Nano() + int64(left))}
	conn, err := b.file.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Control(func(fd uintptr) {
		_ = unix.TimerfdSettime(int(fd), unix.TFD_TIMER_ABSTIME, &spec, nil)
	})
}

func (b *bootTimer) stop() { _ = b.file.Close() }
