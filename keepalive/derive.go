package keepalive

import (
	"fmt"
	"time"
)

const (
	// MaxBudget is the longest silence that Derive allows, however large the TTL, because a connection that has been
	// dead for five minutes is of no use.
	MaxBudget = 300 * time.Second

	// probes is the number of lost packets that an idle connection survives.
	probes = 3

	// leastUserTimeout keeps a connection alive through an ordinary retransmission or two.
	leastUserTimeout = time.Second

	// firstRetransmission is added to a user timeout, because Linux starts its clock at the first retransmission. A
	// tail-loss probe and a timeout of at least 200 ms come before that.
	firstRetransmission = 500 * time.Millisecond
)

// A Report describes the effect of derived values.
type Report struct {
	// Budget is the silence that may stay undetected. It is the TTL, at most MaxBudget and at least zero.
	Budget time.Duration
	// MaxGap is the longest time between two writes that the values assume. It is the loop wait, at most a third of the
	// budget. For a caller that writes less often, Idle holds while it does not write, and Unacked with its own gap in
	// place of MaxGap.
	MaxGap time.Duration
	// Idle bounds the undetected silence of a connection without unacknowledged data.
	Idle time.Duration
	// Unacked bounds the undetected silence if data is written up to MaxGap after the silence began.
	Unacked time.Duration
	// Achievable is the longer of Idle and Unacked, and includes the lateness of the kernel's timers. It is Unbounded
	// if the system has no means to bound the silence.
	Achievable time.Duration
	// Met is true when Achievable is within Budget.
	Met bool
	// Adjustments describes each departure from the formula, for a log or an operator. Departures are inputs that were
	// cut, values that were moved into the system's limits, and a budget that cannot be met.
	Adjustments []string
}

// Derive returns the values, within the limits of this system, with which a caller that writes at least every loopWait
// detects a silent peer within ttl. No input is an error. A TTL that is zero, negative or too small gives the smallest
// values that the system accepts and a Report with Met false. A loop wait that is zero or negative is unknown, and a third
// of the budget is used.
func Derive(ttl, loopWait time.Duration) (Config, Report) { return DeriveFor(System(), ttl, loopWait) }

// DeriveFor is Derive for the system that l describes.
func DeriveFor(l Limits, ttl, loopWait time.Duration) (Config, Report) {
	var rep Report
	rep.Budget, rep.MaxGap = rep.inputs(ttl, loopWait)

	c := Config{Idle: floor(rep.Budget/2, l.Idle), Count: probes}
	if l.FixedCount != 0 {
		c.Count = l.FixedCount
	}
	if l.perSocket() {
		c = c.probeWithin(l, rep.Budget)
	}
	c.UserTimeout = floor(max(leastUserTimeout, inTime(rep.Budget-rep.MaxGap, l, 1)-firstRetransmission), l.UserTimeout)
	if l.UserTimeoutEndsProbing {
		c = c.endProbingWithin(l, rep.Budget)
	}
	c, made := c.ClampFor(l)
	for _, a := range made {
		rep.note("%s", a.Message)
	}
	rep.Idle, rep.Unacked = c.SilenceFor(l, rep.MaxGap)
	rep.Achievable = max(rep.Idle, rep.Unacked)
	rep.Met = rep.Achievable <= rep.Budget
	rep.verdict(l)
	return c, rep
}

// probeWithin chooses interval and count so that the last probe goes unanswered within the budget.
func (c Config) probeWithin(l Limits, budget time.Duration) Config {
	// The interval is derived from the rest that the idle time in use leaves, so that a system with a large least idle time probes
	// faster instead of later.
	idle := min(max(c.Idle, l.Idle.Min), l.Idle.Max)
	left := max(0, inTime(budget, l, c.Count+1)-idle)
	c.Interval = floor(left/time.Duration(c.Count), l.Interval)
	if l.FixedCount == 0 && !l.UserTimeoutEndsProbing {
		// Where the least interval is too long for all probes, fewer are sent.
		c.Count = int(min(int64(c.Count), max(1, int64(left/max(c.Interval, l.Interval.Min)))))
	}
	return c
}

// endProbingWithin lowers a user timeout that would pass only after the last probe within the budget. The kernel checks
// the user timeout when it sends a probe, and the next one would be too late.
func (c Config) endProbingWithin(l Limits, budget time.Duration) Config {
	idle, interval := max(c.Idle, l.Idle.Min), max(c.Interval, l.Interval.Min)
	fits := max(1, (inTime(budget, l, c.Count+1)-idle)/interval)
	c.UserTimeout = min(c.UserTimeout, idle+fits*interval)
	return c
}

func (r *Report) note(format string, args ...any) {
	r.Adjustments = append(r.Adjustments, fmt.Sprintf(format, args...))
}

func (r *Report) inputs(ttl, loopWait time.Duration) (budget, gap time.Duration) {
	budget = min(max(ttl, 0), MaxBudget)
	switch {
	case ttl <= 0:
		r.note("ttl %s is not positive: the smallest values are used", words(ttl))
	case ttl > MaxBudget:
		r.note("ttl %s is above %s: a silence of %s is noticed", words(ttl), words(MaxBudget), words(MaxBudget))
	}
	gap = budget / 3
	switch {
	case loopWait <= 0:
		r.note("loop wait %s is not positive: a write every %s is counted on", words(loopWait), gap)
	case loopWait > gap:
		r.note("loop wait %s is above a third of the budget: a write every %s is counted on", words(loopWait), gap)
	default:
		gap = loopWait
	}
	return budget, gap
}

func (r *Report) verdict(l Limits) {
	switch {
	case r.Met:
	case r.Idle == Unbounded:
		r.note("%s cannot bound the silence per socket: only the application's own deadlines do", l.OS)
	case r.Unacked == Unbounded:
		r.note("%s cannot bound per socket how long data stays unacknowledged: silence is bounded only while nothing is "+
			"under way, by %s", l.OS, r.Idle)
	default:
		r.note("a budget of %s cannot be met on %s: silence is noticed after %s at the latest", words(r.Budget), l.OS,
			r.Achievable)
	}
}

// SilenceFor returns how long a silent peer can stay undetected with these values on the system that l describes. idle is
// that time for a connection without unacknowledged data, and unacked if data is written no later than maxGap after the
// silence began. Both include the lateness of the kernel's timers. Unbounded means that no value bounds the time. The
// caller must clamp c first.
func (c Config) SilenceFor(l Limits, maxGap time.Duration) (idle, unacked time.Duration) {
	idle, unacked = Unbounded, Unbounded
	if l.perSocket() {
		n := min(max(c.Count, 0), maxInt32)
		if l.UserTimeoutEndsProbing && c.UserTimeout > 0 {
			n = probesUntil(c)
		}
		silent := addDuration(max(c.Idle, 0), mulDuration(c.Interval, n))
		// n+1 timers run one after the other.
		idle = lateness(silent, l, n+1)
	}
	if c.UserTimeout > 0 {
		late := addDuration(lateness(c.UserTimeout, l, 1), firstRetransmission)
		unacked = addDuration(max(maxGap, 0), late)
	}
	return idle, unacked
}

// probesUntil returns the number of intervals after which the user timeout has passed, at least one.
func probesUntil(c Config) int {
	left := c.UserTimeout - max(c.Idle, 0)
	if left <= 0 || c.Interval <= 0 {
		return 1
	}
	n := left / c.Interval
	if left%c.Interval != 0 {
		n++
	}
	return int(min(n, maxInt32))
}

// lateness returns when a sequence of n kernel timers adding up to d may end: a seventh late, and a tick each where the
// timers are slow. The timer wheel of Linux (kernel/time/timer.c) holds a timer in a level whose granularity is at most
// 8/63 of the time it runs, plus one jiffy; 1.8 s on 20 s were measured.
func lateness(d time.Duration, l Limits, n int) time.Duration {
	return addDuration(addDuration(d, d/7), mulDuration(l.Tick, n))
}

// inTime is the reverse: the sum that n timers may be set to so that they end within d.
func inTime(d time.Duration, l Limits, n int) time.Duration {
	return max(0, d-mulDuration(l.Tick, n)) / 8 * 7
}

// floor rounds down to a value of r.
func floor(d time.Duration, r Range) time.Duration {
	if r.missing() {
		return d
	}
	return d - d%r.Unit
}
