package dcs

import (
	"math"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// bootTimer fires by CLOCK_BOOTTIME, which goes on while the machine is
// suspended. Go's own timers do not, and would fire late by that time.
type bootTimer struct {
	onTimer func()
	spawn   func(func())
	due     int64 // on CLOCK_BOOTTIME, in ns; 0: not set
}

// bootTimers holds the kernel timer that all deadline timers of the process share,
// and one goroutine that waits for it. Both exist only while there is a timer.
var bootTimers struct {
	mu     sync.Mutex
	timers map[*bootTimer]struct{}
	next   int64 // the time to which file is set
	file   *os.File
	done   chan struct{} // closed when file's goroutine has ended
}

// newBootTimer returns nil if the kernel offers no timer, and in a bubble.
func newBootTimer(onTimer func(), spawn func(func())) *bootTimer {
	if inBubble() {
		return nil
	}
	bootTimers.mu.Lock()
	defer bootTimers.mu.Unlock()
	if bootTimers.file == nil {
		fd, err := unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
		if err != nil {
			return nil
		}
		bootTimers.file, bootTimers.done, bootTimers.next = os.NewFile(uintptr(fd), "timerfd"), make(chan struct{}), 0
		bootTimers.timers = map[*bootTimer]struct{}{}
		go serveBootTimers(bootTimers.file, bootTimers.done)
	}
	b := &bootTimer{onTimer: onTimer, spawn: spawn}
	bootTimers.timers[b] = struct{}{}
	return b
}

// serveBootTimers waits for the kernel timer until file is closed. It runs each
// due callback in a goroutine of its own, so that a slow one delays no other.
func serveBootTimers(file *os.File, done chan struct{}) {
	defer close(done)
	var ticks [8]byte
	for {
		if _, err := file.Read(ticks[:]); err != nil {
			return
		}
		now, ok := bootTime()
		bootTimers.mu.Lock()
		if bootTimers.file == file {
			for b := range bootTimers.timers {
				if b.due != 0 && (!ok || b.due <= now) {
					b.due = 0
					b.spawn(b.onTimer)
				}
			}
			armBootTimers()
		}
		bootTimers.mu.Unlock()
	}
}

func bootTime() (ns int64, ok bool) {
	var now unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now)
	return now.Nano(), err == nil
}

// armBootTimers sets the kernel timer to the earliest due time. Called under
// bootTimers.mu.
func armBootTimers() {
	first := int64(0)
	for b := range bootTimers.timers {
		if b.due != 0 && (first == 0 || b.due < first) {
			first = b.due
		}
	}
	if first == bootTimers.next && first != 0 {
		return
	}
	bootTimers.next = first
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(first)} // all zero: never
	conn, err := bootTimers.file.SyscallConn()
	if err != nil {
		return
	}
	// Both fail only on a closed descriptor, and this one is never closed.
	_ = conn.Control(func(fd uintptr) {
		_ = unix.TimerfdSettime(int(fd), unix.TFD_TIMER_ABSTIME, &spec, nil)
	})
}

func (b *bootTimer) set(at Instant) {
	// Read the clock before the time left: if the thread is preempted in between,
	// the timer is set too early and never too late.
	now, ok := bootTime()
	if !ok {
		return
	}
	left := max(-at.Elapsed(), 0)
	bootTimers.mu.Lock()
	defer bootTimers.mu.Unlock()
	if _, there := bootTimers.timers[b]; !there {
		return
	}
	b.due = now + min(int64(left), math.MaxInt64-now)
	bootTimers.next = -1 // the timer has fired and may be set to the same time again
	armBootTimers()
}

func (b *bootTimer) stop() {
	bootTimers.mu.Lock()
	delete(bootTimers.timers, b)
	file, done := bootTimers.file, bootTimers.done
	last := len(bootTimers.timers) == 0
	if last {
		bootTimers.file = nil
	} else {
		armBootTimers()
	}
	bootTimers.mu.Unlock()
	if last && file != nil {
		_ = file.Close()
		<-done
	}
}
