package keepalive

import (
	"fmt"
	"math"
	"time"
)

// Config has the settings of a socket. Apply, Dialer, Listen and Control use Default for the zero Config. They move a
// value outside of the system's limits to the nearest one that it accepts, so that no Config makes an option fail.
type Config struct {
	// Idle is the silence after which the first probe is sent.
	Idle time.Duration
	// Interval is the time between two probes.
	Interval time.Duration
	// Count is the number of unanswered probes after which the kernel closes the connection. Linux ignores it if
	// UserTimeout is set.
	Count int
	// UserTimeout is how long data may stay unacknowledged before the kernel closes the connection. Zero means no
	// limit: the kernel keeps a connection with unacknowledged data for as long as it retransmits, about fifteen
	// minutes on Linux.
	UserTimeout time.Duration
}

// Default returns the values for a TTL of 30 seconds and a write at least every 10 seconds. Callers without a TTL of
// their own should use it.
func Default() Config {
	c, _ := Derive(30*time.Second, 10*time.Second)
	return c
}

func (c Config) orDefault() Config {
	if c == (Config{}) {
		return Default()
	}
	return c
}

// Adjustment is one change that Clamp made.
type Adjustment struct {
	// Field names the value: "idle", "interval", "count" or "user timeout".
	Field string
	// Message names the change, its reason, and the value in use, for a log or an operator.
	Message string
}

// String returns the message.
func (a Adjustment) String() string { return a.Message }

// Clamp moves every value into the limits of the system that this process runs on and returns each change it made. A
// value that lies between two that the system can hold is rounded down, because a shorter time keeps the bound on
// silence. The result is a fixed point: clamping it again changes nothing.
func (c Config) Clamp() (Config, []Adjustment) { return c.ClampFor(System()) }

// ClampFor is Clamp for the system that l describes.
func (c Config) ClampFor(l Limits) (Config, []Adjustment) {
	f := fitter{os: l.OS}
	var out Config
	out.UserTimeout = f.userTimeout(c.UserTimeout, l.UserTimeout)
	if !l.perSocket() {
		if c.Idle != 0 || c.Interval != 0 || c.Count != 0 {
			f.note("idle", "%s has no keepalive times per socket: its own are used", l.OS)
		}
		return out, f.made
	}
	out.Idle = f.duration("idle", c.Idle, l.Idle)
	interval := c.Interval
	if l.FixedCount != 0 && c.Count != l.FixedCount {
		// The same silence is bounded when Interval x Count is unchanged.
		interval = mulDuration(c.Interval, c.Count) / time.Duration(l.FixedCount)
		interval -= interval % l.Interval.Unit
		f.note("count", "count %d cannot be had, %s always counts to %d: using interval %s",
			c.Count, l.OS, l.FixedCount, words(min(max(interval, l.Interval.Min), l.Interval.Max)))
	}
	out.Interval = f.duration("interval", interval, l.Interval)
	out.Count = f.count(c.Count, out.Interval, l)
	return out, f.made
}

// fitter collects the adjustments of one Clamp.
type fitter struct {
	os   string
	made []Adjustment
}

func (f *fitter) note(field, format string, args ...any) {
	f.made = append(f.made, Adjustment{Field: field, Message: fmt.Sprintf(format, args...)})
}

func (f *fitter) duration(field string, d time.Duration, r Range) time.Duration {
	switch {
	case d < r.Min:
		f.note(field, "%s %s is below %s's %s: using %s", field, words(d), f.os, words(r.Min), words(r.Min))
		return r.Min
	case d > r.Max:
		f.note(field, "%s %s is above %s's %s: using %s", field, words(d), f.os, words(r.Max), words(r.Max))
		return r.Max
	case d%r.Unit != 0:
		whole := d - d%r.Unit
		f.note(field, "%s %s is no multiple of %s's %s: using %s", field, words(d), f.os, words(r.Unit), words(whole))
		return whole
	}
	return d
}

func (f *fitter) userTimeout(d time.Duration, r Range) time.Duration {
	const field = "user timeout"
	switch {
	case d == 0:
		return 0
	case d < 0:
		f.note(field, "user timeout %s is negative: it is left off", words(d))
		return 0
	case r.missing():
		f.note(field, "user timeout %s cannot be had, %s has none per socket: it is left off", words(d), f.os)
		return 0
	}
	return f.duration(field, d, r)
}

func (f *fitter) count(n int, interval time.Duration, l Limits) int {
	if l.FixedCount != 0 {
		return l.FixedCount
	}
	most, why := l.MaxCount, ""
	if l.MaxProbing > 0 {
		// The quotient fits an int: MaxProbing is below 2^32 seconds and no interval is below a millisecond.
		if fits := int64(l.MaxProbing / interval); fits < int64(most) {
			most, why = max(l.MinCount, int(fits)), " at interval "+words(interval)
		}
	}
	switch {
	case n < l.MinCount:
		f.note("count", "count %d is below %s's %d: using %d", n, l.OS, l.MinCount, l.MinCount)
		return l.MinCount
	case n > most:
		f.note("count", "count %d is above %s's %d%s: using %d", n, l.OS, most, why, most)
		return most
	}
	return n
}

// words formats a time in the largest unit without a fraction, as in 33326s or 1500ms.
func words(d time.Duration) string {
	switch {
	case d%time.Second == 0:
		return fmt.Sprintf("%ds", d/time.Second)
	case d%time.Millisecond == 0:
		return fmt.Sprintf("%dms", d/time.Millisecond)
	}
	return d.String()
}

// Unbounded is reported for a time that no value bounds. Sums and products in this package stop there instead of
// wrapping.
const Unbounded = time.Duration(math.MaxInt64)

// addDuration adds two times, neither negative, and stops at Unbounded.
func addDuration(a, b time.Duration) time.Duration {
	if a > Unbounded-b {
		return Unbounded
	}
	return a + b
}

// mulDuration multiplies a time by a count and stops at Unbounded. A negative factor gives zero.
func mulDuration(d time.Duration, n int) time.Duration {
	switch {
	case d <= 0 || n <= 0:
		return 0
	case d > Unbounded/time.Duration(n):
		return Unbounded
	}
	return d * time.Duration(n)
}
