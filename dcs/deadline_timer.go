package dcs

import (
	"sync"
	"time"
)

// alarm calls ring when an Instant has come: exactly, and on Linux also at
// once when the machine wakes up after it. It may ring too early or twice, so
// whoever is rung asks the clocks again and sets the alarm anew.
type deadlineTimer struct {
	mu      sync.Mutex
	timer   *time.Timer
	boot    *bootTimer // nil where there is none
	stopped bool
}

// newAlarm makes an alarm that is not set. Whatever goroutine it needs is
// started through spawn and ends with stop.
func newDeadlineTimer(onTimer func(), spawn func(func())) *deadlineTimer {
	a := &deadlineTimer{boot: newBootTimer(onTimer, spawn)}
	a.timer = time.AfterFunc(time.Hour, onTimer)
	a.timer.Stop()
	return a
}

// set moves the alarm to at. An alarm that was stopped stays so.
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

// stop ends the alarm for good. It may be called from ring.
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

// inBubble reports whether the caller runs in a bubble of testing/synctest,
// which shows in readings of the clock that carry no monotonic part. There
// time is not the kernel's, and a goroutine that waits for the kernel would
// keep it from passing.
func inBubble() bool {
	now := monotonic()
	return now == now.Round(0) //nolint:staticcheck // Equal does not see what is asked for here
}
