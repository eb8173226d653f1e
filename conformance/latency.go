package conformance

import (
	"fmt"
	"slices"
	"time"
)

// latency is a measured latency of a case with its bound, and the control of the same
// window, by which the bound was widened.
type latency struct {
	what                   string
	figure, bound, control time.Duration
}

// excess returns the difference between the figure and the widened bound. It is negative
// if the figure is below.
func (l latency) excess() time.Duration { return l.figure - l.bound - l.control }

func (l latency) String() string {
	return fmt.Sprintf("%s: %v, at most %v%s", l.what, round(l.figure), round(l.bound), allowance(l.control))
}

func allowance(control time.Duration) string {
	if control == 0 {
		return ""
	}
	return fmt.Sprintf(" (and %v that the machine took, by the control)", round(control))
}

func round(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }

// samples returns the control's samples between two times. Virtual time has none.
func (e *env) samples(from, to time.Time) []sample {
	if e.h.Virtual {
		return nil
	}
	return machine.between(from, to)
}

// delayed returns the longest delay of the control since from, which this machine may have
// added to the latency of one call.
func (e *env) delayed(from time.Time) (longest time.Duration) {
	for _, s := range e.samples(from, time.Now()) {
		longest = max(longest, s.delay)
	}
	return longest
}

// allowed returns the time that this machine may have added to a latency, which was measured
// since from: the control's longest delay, or the time for which programs waited for a
// processor in a period as long as the latency.
func (e *env) allowed(figure, bound time.Duration, from time.Time) time.Duration {
	waited := mostContended(e.samples(from, time.Now()), figure)
	return max(e.delayed(from), min(waited, mostShare*bound))
}

// delayedAt returns a quantile of the control's delays between two times.
func (e *env) delayedAt(q float64, from, to time.Time) time.Duration {
	var delays []time.Duration
	for _, s := range e.samples(from, to) {
		delays = append(delays, s.delay)
	}
	slices.Sort(delays)
	return quantile(delays, q)
}

// measured records a latency for the report. Of those with one name it keeps the one that
// came closest to its bound, or exceeded it most.
func (e *env) measured(l latency) {
	if r, ok := e.TB.(*recorder); ok && !e.h.Virtual {
		r.measure(l)
	}
}

// atMost requires that a latency measured since from is at most the sum of bound and the
// control of that time.
func (e *env) atMost(figure, bound time.Duration, from time.Time, what string) {
	e.bounded(latency{what, figure, bound, e.allowed(figure, bound, from)})
}

// bounded requires that l is within its widened bound.
func (e *env) bounded(l latency) {
	e.measured(l)
	if l.excess() > 0 {
		e.Errorf("%v", l)
	}
}

// stall returns the longest time for which the machine may stand still in a case. It is the
// store's own election, because a store that does not run for longer holds one.
func (e *env) stall() time.Duration {
	if c := e.s.Cluster; c != nil && c.Election > 0 {
		return c.Election
	}
	return e.budget()
}

// fastEnough fails a case during which the machine stood still for longer than the store's
// own election, because its findings do not apply to the store then.
func (e *env) fastEnough(from time.Time) {
	var longest time.Duration
	for _, s := range e.samples(from, time.Now()) {
		longest = max(longest, s.still)
	}
	if longest > e.stall() {
		e.Errorf("machine too slow: it stood still for %v by the control; the store's own election takes %v", round(longest), e.stall())
	}
}
