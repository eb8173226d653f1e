package dcs

import "time"

// Instant is a moment of this process: a monotonic reading and the time the
// machine had slept by then. Go's monotonic clock stands still while a
// machine is suspended; leases do not. An Instant knows no wall clock, cannot
// be serialised, and means nothing on another machine. The zero Instant lies
// infinitely far in the past.
type Instant struct {
	mono  time.Time
	slept time.Duration // a lower bound at the time of the reading
}

// sleptBounds returns a lower and an upper bound of the time the machine has
// spent suspended. A variable so that tests can suspend the machine.
var sleptBounds = systemSlept

// Now returns the present Instant.
func Now() Instant {
	// The lower bound at the start and the upper one in Elapsed: a thread that
	// is preempted between two clocks makes time look longer, never shorter.
	mono := time.Now()
	low, _ := sleptBounds()
	return Instant{mono: mono, slept: low}
}

// monotonic returns a reading of Go's monotonic clock, for durations that are
// only reported.
func monotonic() time.Time { return time.Now() }

// IsZero reports whether i is the zero Instant.
func (i Instant) IsZero() bool { return i.mono.IsZero() }

// Elapsed returns the time since i, time asleep included. It is never
// shorter than what really passed.
func (i Instant) Elapsed() time.Duration {
	if i.IsZero() {
		return 1<<63 - 1
	}
	_, high := sleptBounds()
	d := time.Since(i.mono)
	if asleep := high - i.slept; asleep > 0 {
		d += asleep
	}
	return d
}

// Add returns the instant d later (or earlier, for a negative d).
func (i Instant) Add(d time.Duration) Instant {
	if i.IsZero() {
		return i
	}
	return Instant{mono: i.mono.Add(d), slept: i.slept}
}

// Before reports whether i is earlier than j. Both must be of one process.
func (i Instant) Before(j Instant) bool { return i.Sub(j) < 0 }

// Sub returns the time from j to i.
func (i Instant) Sub(j Instant) time.Duration {
	return i.mono.Sub(j.mono) + (i.slept - j.slept)
}
