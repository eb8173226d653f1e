package dcs

import (
	"math"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// bootTimer rings by CLOCK_BOOTTIME, which goes on while the machine sleeps:
// Go's own timers stand still then and would be late by as much.
type bootTimer struct {
	onTimer func()
	spawn   func(func())
	due     int64 // on CLOCK_BOOTTIME, in ns; 0: not set
}

// bell is the kernel's timer for all alarms of the process, with one goroutine
// that waits for it. It is there while any alarm is.
var bootTimers struct {
	mu     sync.Mutex
	timers map[*bootTimer]struct{}
	next   int64 // what file is set to
	file   *os.File
	done   chan struct{} // closed when file's goroutine has ended
}

// newBootTimer returns nil where the kernel has none to give, and in a bubble.
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

// listen waits for the kernel until file is closed. Whoever is due is rung on
// a goroutine of its own, so that a slow one delays nobody.
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

// rearm sets the kernel's timer to the first alarm. Called under bell.mu.
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
	// The clock first and the time left after it: preempted between the two,
	// the timer is set too early, never too late.
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
	bootTimers.next = -1 // what was rung may be set to the same again
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
