package keepalive

import (
	"fmt"
	"time"
)

const (
	// MaxBudget is the longest silence that Derive lets pass however large the TTL: a connection that has been dead for
	// five minutes helps nobody.
	MaxBudget = 300 * time.Second

	// probes is how many lost packets a connection survives while it is idle.
	probes = 3

	// leastUserTimeout keeps a connection alive through an ordinary retransmission or two.
	leastUserTimeout = time.Second

	// firstRetransmission is added to a user timeout: Linux starts its clock at the first retransmission, which
	// follows the data by a tail-loss probe and a timeout of at least 200 ms.
	firstRetransmission = 500 * time.Millisecond
)

// A Report describes the effect of derived values.
type Report struct {
	// Budget is the silence that may pass unnoticed: the TTL, at most MaxBudget, at least zero.
	Budget time.Duration
	// MaxGap is the longest time between two writes that the values count on: the loop wait, at most a third of the
	// budget. A caller that writes less often is promised Idle as long as it does not write, and MaxGap replaced by its
	// own gap in Unacked.
	MaxGap time.Duration
	// Idle bounds the silence that goes unnoticed on a connection with nothing under way.
	Idle time.Duration
	// Unacked bounds the silence that goes unnoticed when data is written into it, up to MaxGap after it began.
	Unacked time.Duration
	// Achievable is the worse of the two: the worst silence that these values bound, lateness of the kernel's timers
	// included. Unbounded where the system offers no means to bound it.
	Achievable time.Duration
	// Met is true when Achievable is within Budget.
	Met bool
	// Adjustments are all departures from the formula, in words: inputs that were cut, values moved into the system's
	// limits, and a budget that cannot be met.
	Adjustments []string
}

// Derive computes the values, already inside the limits of this system, that make a silent peer noticed within ttl by a
// caller that writes at least every loopWait. No input is an error: a TTL that is zero, negative or too small gives
// the smallest values that the system takes and a Report with Met false; a loop wait that is zero or negative stands for
// "not known" and gives a third of the budget.
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

// endProbingWithin keeps the user timeout from passing only after the last probe that fits into the budget: it would
// then be looked at by a probe that comes too late.
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

// SilenceFor returns how long a silent peer can go unnoticed under these values on the system that l describes: idle,
// on a connection with nothing under way, and unacked, when data is written no later than maxGap after the silence
// began. Lateness of the kernel's timers is included; Unbounded means that no value bounds it. c is taken as it is, so
// clamp it first.
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
