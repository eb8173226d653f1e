package dcs

import (
	"sync"
	"time"
)

// deadlineTimer calls a function at an Instant. On Linux it also counts the time
// during which the machine was suspended, so that it fires at once after a
// resume. It may fire early or twice. The function must therefore read the clocks
// again and set the timer again.
type deadlineTimer struct {
	mu      sync.Mutex
	timer   *time.Timer
	boot    *bootTimer // nil where the system has none
	stopped bool
}

// newDeadlineTimer returns a timer that is not set. Each goroutine that it needs is
// started through spawn and ends with stop.
func newDeadlineTimer(onTimer func(), spawn func(func())) *deadlineTimer {
	a := &deadlineTimer{boot: newBootTimer(onTimer, spawn)}
	a.timer = time.AfterFunc(time.Hour, onTimer)
	a.timer.Stop()
	return a
}

// set moves the timer to at. It has no effect after stop.
func (a *deadlineTimer) set(at Instant) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stopped {
		return
	}
	a.timer.Reset(max(-at.Elapsed(), 0))
	if a.boot != nil {
		a.boot.set(at)
	}
}

// stop ends the timer for good. onTimer may call it.
func (a *deadlineTimer) stop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stopped {
		return
	}
	a.stopped = true
	a.timer.Stop()
	if a.boot != nil {
		a.boot.stop()
	}
}

// inBubble reports whether the caller runs in a bubble of testing/synctest. In a
// bubble a reading of the clock has no monotonic part. The kernel's time does not
// apply there, and a goroutine that waits for the kernel would keep the bubble's
// time from passing.
func inBubble() bool {
	now := monotonic()
	return now == now.Round(0) //nolint:staticcheck // Equal ignores the monotonic part
}
