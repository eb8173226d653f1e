package dcs

import (
	"math"
	"time"
)

// Instant is a moment of this process: a monotonic reading and the time the
// machine had slept by then. Go's monotonic clock stands still while a
// machine is suspended; leases do not. An Instant knows no wall clock, cannot
// be serialised, and means nothing on another machine. The zero Instant lies
// infinitely far in the past.
type Instant struct {
	mono  time.Time
	slept time.Duration // since the process began
}

// bootClock reads a clock that goes on while the machine is suspended. A
// variable, so that tests can suspend it.
var bootClock = systemBootClock

// Both clocks as the process began, in this order: what lies between the two
// readings then makes asleep too large by a constant, which cancels out, and
// not too small, where the bound of 0 would cut off a part of a sleep.
var bootAtStart, monoAtStart = bootClock(), time.Now()

// asleep is the time that the machine has spent suspended since the process
// began, given a reading of each clock. It is never less than nothing; so it
// is nothing in a testing/synctest bubble, whose clock has nothing to do with
// the machine's.
func asleep(boot time.Duration, mono time.Time) time.Duration {
	return max(0, boot-bootAtStart-mono.Sub(monoAtStart))
}

// Now returns the present Instant.
func Now() Instant {
	boot, mono := bootClock(), time.Now()
	return Instant{mono: mono, slept: asleep(boot, mono)}
}

// monotonic returns a reading of Go's monotonic clock, for durations that are
// only reported.
func monotonic() time.Time { return time.Now() }

// IsZero reports whether i is the zero Instant.
func (i Instant) IsZero() bool { return i.mono.IsZero() }

// Elapsed returns the time since i, time asleep included; it is negative for
// an instant that lies ahead. It is never shorter than what really passed.
func (i Instant) Elapsed() time.Duration {
	if i.IsZero() {
		return math.MaxInt64
	}
	// This is the larger of what the two clocks say. A thread may be preempted
	// between their readings, but all four lie within Now and within Elapsed,
	// so neither clock can show less than what passed between the calls.
	mono, boot := time.Now(), bootClock()
	return saturate(mono.Sub(i.mono), max(0, asleep(boot, mono)-i.slept))
}

// Add returns the instant d later (or earlier, for a negative d). Durations of
// more than a century are cut to that.
func (i Instant) Add(d time.Duration) Instant {
	if i.IsZero() {
		return i
	}
	// So far off, time.Time would fall back on the wall clock.
	const century = 100 * 365 * 24 * time.Hour
	d = min(max(d, -century), century)
	return Instant{mono: i.mono.Add(d), slept: i.slept}
}

// Before reports whether i is earlier than j. Both must be of one process.
func (i Instant) Before(j Instant) bool { return i.Sub(j) < 0 }

// Sub returns the time from j to i, time asleep included.
func (i Instant) Sub(j Instant) time.Duration {
	switch {
	case i.IsZero() && j.IsZero():
		return 0
	case i.IsZero():
		return math.MinInt64
	case j.IsZero():
		return math.MaxInt64
	}
	return saturate(i.mono.Sub(j.mono), i.slept-j.slept)
}

// saturate adds and stops at the largest and smallest duration.
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
