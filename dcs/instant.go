package dcs

import (
	"math"
	"time"
)

// Instant is a moment of this process. It combines a reading of Go's monotonic
// clock with the time that the machine had been suspended by then. Go's monotonic
// clock stands still while a machine is suspended, but leases do not. An Instant is
// independent of the wall clock, cannot be serialised, and has no meaning on
// another machine. The zero Instant lies infinitely far in the past.
type Instant struct {
	awake, slept time.Duration // since the process began
	set          bool
}

// bootClock reads a clock that goes on while the machine is suspended. It is a
// variable so that tests can simulate a suspension.
var bootClock = systemBootClock

// Both clocks at the start of the process, read in this order. The time between the
// two readings makes asleep too large by a constant, which cancels out. In the
// other order asleep would be too small, and its bound of 0 would cut off a part of
// a suspension.
var bootAtStart, monoAtStart = bootClock(), time.Now()

// asleep returns the time that the machine has been suspended since the process
// began, from a reading of each clock. It is never negative. In a bubble of
// testing/synctest it is 0, because the time there is long before the start of the
// process and independent of the machine's.
func asleep(boot, awake time.Duration) time.Duration {
	if awake < 0 && boot >= bootAtStart {
		return 0
	}
	return max(0, boot-bootAtStart-awake)
}

// Now returns the present Instant.
func Now() Instant {
	boot, awake := bootClock(), time.Since(monoAtStart)
	return Instant{awake: awake, slept: asleep(boot, awake), set: true}
}

// monotonic returns a reading of Go's monotonic clock, for durations that are
// only reported.
func monotonic() time.Time { return time.Now() }

// IsZero reports whether i is the zero Instant.
func (i Instant) IsZero() bool { return !i.set }

// Elapsed returns the time since i, including the time that the machine was
// suspended. It is negative for an instant in the future. It is never shorter than
// the time that really passed.
func (i Instant) Elapsed() time.Duration {
	if !i.set {
		return math.MaxInt64
	}
	// This is the larger of the times that the two clocks show. A thread may be
	// preempted between their readings. All four readings lie within Now and
	// within Elapsed, so neither clock can show less than the time between the
	// calls.
	awake, boot := time.Since(monoAtStart), bootClock()
	return saturate(minus(awake, i.awake), max(0, asleep(boot, awake)-i.slept))
}

// Add returns the instant d later, or earlier for a negative d.
func (i Instant) Add(d time.Duration) Instant {
	if i.set {
		i.awake = saturate(i.awake, d)
	}
	return i
}

// Before reports whether i is earlier than j. Both must be of the same process.
func (i Instant) Before(j Instant) bool { return i.Sub(j) < 0 }

// Sub returns the time from j to i, including the time that the machine was
// suspended.
func (i Instant) Sub(j Instant) time.Duration {
	switch {
	case !i.set && !j.set:
		return 0
	case !i.set:
		return math.MinInt64
	case !j.set:
		return math.MaxInt64
	}
	return saturate(minus(i.awake, j.awake), i.slept-j.slept)
}

// minus returns a - b, limited to the largest and smallest duration.
func minus(a, b time.Duration) time.Duration {
	if b == math.MinInt64 {
		return saturate(saturate(a, math.MaxInt64), 1)
	}
	return saturate(a, -b)
}

// saturate returns a + b, limited to the largest and smallest duration.
func saturate(a, b time.Duration) time.Duration {
	sum := a + b
	switch {
	case a > 0 && b > 0 && sum < 0:
		return math.MaxInt64
	case a < 0 && b < 0 && sum >= 0:
		return math.MinInt64
	}
	return sum
}

// Boottime returns i as a reading of CLOCK_BOOTTIME in nanoseconds. Other processes
// of this machine can compare it with that clock, such as a child process or a
// watchdog that must act at a deadline. It is never later than i. It reports false
// on systems without that clock, for the zero Instant, for an instant before the
// clock's zero, and in a bubble of testing/synctest.
func (i Instant) Boottime() (ns int64, ok bool) {
	if !i.set || bootAtStart == 0 {
		return 0, false
	}
	at := saturate(bootAtStart, saturate(i.awake, i.slept))
	return int64(at), at > 0
}
