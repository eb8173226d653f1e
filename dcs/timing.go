package dcs

import (
	"fmt"
	"math"
	"time"
)

// Timing holds the three settings from which all durations derive. They must satisfy
// LoopWait + 2*RetryTimeout <= TTL. After a renewal that was sent a LoopWait ago, one
// call may then use up its whole budget, and a second one still returns before the
// lease runs out.
//
// An all-zero Timing means [DefaultTiming]. [Timing.WithDefaults] describes a Timing
// of which only some fields are zero.
type Timing struct {
	// TTL is how long a lease lives without a renewal. A store may move it into
	// the range from [Caps].MinTTL to MaxTTL.
	TTL time.Duration
	// LoopWait is the longest pause between two renewals of a Session.
	LoopWait time.Duration
	// RetryTimeout is the budget of one call, retries included.
	RetryTimeout time.Duration
}

// DefaultTiming is the Timing that an all-zero one stands for.
var DefaultTiming = Timing{TTL: 30 * time.Second, LoopWait: 10 * time.Second, RetryTimeout: 10 * time.Second}

const (
	// longTTL is the TTL above which New logs a warning, because a failover takes
	// that long.
	longTTL = 300 * time.Second
	// minMargin is the least safety margin of a deadline (P3).
	minMargin = 100 * time.Millisecond
)

// Margin returns the part of a lease's TTL by which the deadline comes early, because
// clocks do not run at the same speed. It is max(TTL/50, 100 ms) (P3).
func Margin(ttl time.Duration) time.Duration { return max(ttl/50, minMargin) }

// Deadline returns the instant at which a holder must act as if its lease were lost.
// The lease was confirmed at the instant from, for ttl. The deadline is
// from + ttl - [Margin] (P3).
func Deadline(from Instant, ttl time.Duration) Instant {
	return from.Add(max(ttl, 0) - Margin(ttl)) // P3
}

// String returns the settings in the form in which messages show them.
func (t Timing) String() string {
	return fmt.Sprintf("TTL %v, LoopWait %v, RetryTimeout %v", t.TTL, t.LoopWait, t.RetryTimeout)
}

// WithDefaults returns t with its zero fields filled in. An all-zero Timing becomes
// [DefaultTiming]. Otherwise TTL must be set. A zero LoopWait becomes min(10 s,
// TTL/3). A zero RetryTimeout becomes the largest value that the rule allows, but at
// most 10 s.
func (t Timing) WithDefaults() Timing {
	if t == (Timing{}) {
		return DefaultTiming
	}
	if t.TTL <= 0 {
		return t
	}
	if t.LoopWait == 0 {
		t.LoopWait = min(DefaultTiming.LoopWait, t.TTL/3)
	}
	if t.RetryTimeout == 0 && t.LoopWait > 0 {
		t.RetryTimeout = max(0, min(DefaultTiming.RetryTimeout, (t.TTL-t.LoopWait)/2))
	}
	return t
}

// RenewEvery returns the interval at which a Session renews a lease of the granted
// TTL ttl. It is min(LoopWait, ttl/3).
func (t Timing) RenewEvery(ttl time.Duration) time.Duration { return min(t.LoopWait, ttl/3) }

// Validate returns nil if t, with its defaults filled in, is valid for a store with
// the capabilities c. Otherwise it returns one ErrInvalid that lists every fault with
// the field, the limit and a setting that works. The rule is applied to the TTL that
// the store grants. A TTL that the store has to move is a warning
// ([Timing.Warnings]) and not a fault.
func (t Timing) Validate(c Caps) error {
	faults := t.faults(c)
	if len(faults) == 0 {
		return nil
	}
	return &Error{Op: "Validate", Kind: ErrInvalid, Err: join(faults)}
}

func (t Timing) faults(c Caps) []error {
	t = t.WithDefaults()
	works := "no setting works with a store that grants at most " + c.MaxTTL.String()
	if s, ok := t.suggest(c); ok {
		works = s.String() + " works"
	}
	faults := t.signFaults(works)
	if len(faults) > 0 {
		return faults
	}
	ttl, granted := c.clampTTL(t.TTL), ""
	if ttl != t.TTL {
		granted = fmt.Sprintf(" (TTL %v, which this store moves to %v)", t.TTL, ttl)
	}
	for _, err := range t.ruleFaults(ttl) {
		faults = append(faults, fmt.Errorf("%w%s: %s", err, granted, works))
	}
	return faults
}

// signFaults returns the faults that do not depend on the store.
func (t Timing) signFaults(works string) []error {
	var faults []error
	for _, f := range []struct {
		name string
		d    time.Duration
	}{{"TTL", t.TTL}, {"LoopWait", t.LoopWait}, {"RetryTimeout", t.RetryTimeout}} {
		switch {
		case f.d < 0:
			faults = append(faults, fmt.Errorf("%s %v is negative, it must be more than 0: %s", f.name, f.d, works))
		case f.d == 0 && f.name == "TTL":
			faults = append(faults, fmt.Errorf("TTL is 0 while other settings are not, it must be more than 0: %s", works))
		case f.d == 0 && t.TTL > 0:
			faults = append(faults, fmt.Errorf("%s is 0 and TTL %v leaves nothing for it, it must be more than 0: %s", f.name, t.TTL, works))
		}
	}
	return faults
}

// ruleFaults returns the faults of t for a lease of the granted TTL ttl.
func (t Timing) ruleFaults(ttl time.Duration) []error {
	var faults []error
	// This is LoopWait + 2*RetryTimeout <= TTL, written so that no sum overflows.
	if t.LoopWait > ttl || t.RetryTimeout > (ttl-t.LoopWait)/2 {
		need := satAdd(t.LoopWait, satAdd(t.RetryTimeout, t.RetryTimeout))
		faults = append(faults, fmt.Errorf("TTL %v is less than LoopWait %v + 2 x RetryTimeout %v = %v", ttl, t.LoopWait, t.RetryTimeout, need))
	}
	// There must be time for two renewals before the deadline, so that a single
	// failure does not end a session.
	every := t.RenewEvery(ttl)
	if need := satAdd(Margin(ttl), satAdd(every, every)); need > ttl {
		faults = append(faults, fmt.Errorf("TTL %v leaves no time for two renewals, %v apart, before the deadline, which is %v before the TTL's end (%v are needed)", ttl, every, Margin(ttl), need))
	}
	return faults
}

// CheckGrant returns an ErrInvalid if t breaks its rule with the granted TTL. A
// Session refuses such a grant.
func (t Timing) CheckGrant(granted time.Duration) error {
	t = t.WithDefaults()
	faults := t.ruleFaults(granted)
	if len(faults) == 0 {
		return nil
	}
	works := "no setting works with so short a lease"
	if s, ok := t.suggest(Caps{MinTTL: granted, MaxTTL: granted}); ok && granted > 0 {
		works = s.String() + " works"
	}
	return &Error{Op: "CheckGrant", Kind: ErrInvalid, Err: fmt.Errorf("the store granted a TTL of %v: %w: %s", granted, join(faults), works)}
}

// Warnings returns settings that are allowed but that an operator should know of, in
// words. These are a TTL that the store moves, and one that makes a failover take
// minutes. [New] logs them.
func (t Timing) Warnings(c Caps) []string {
	t = t.WithDefaults()
	var out []string
	switch ttl := c.clampTTL(t.TTL); {
	case ttl > t.TTL:
		out = append(out, fmt.Sprintf("TTL %v is below this store's minimum: it grants %v", t.TTL, ttl))
	case ttl < t.TTL:
		out = append(out, fmt.Sprintf("TTL %v is above this store's maximum: it grants %v", t.TTL, ttl))
	}
	if ttl := c.clampTTL(t.TTL); ttl > longTTL {
		out = append(out, fmt.Sprintf("TTL %v is above %v: when the holder dies, its locks stay that long", ttl, longTTL))
	}
	return out
}

// suggest returns a Timing that is valid under c and near to t. It has a longer TTL
// if the store grants that, and shorter waits otherwise.
func (t Timing) suggest(c Caps) (Timing, bool) {
	s := t
	if s.TTL <= 0 {
		s.TTL = DefaultTiming.TTL
	}
	if s.LoopWait > 0 && s.RetryTimeout > 0 {
		need := satAdd(s.LoopWait, satAdd(s.RetryTimeout, s.RetryTimeout))
		s.TTL = c.clampTTL(max(s.TTL, need))
		if len(s.ruleFaults(s.TTL)) == 0 {
			return s, true
		}
	}
	// Try shorter waits. If the TTL is shorter than any useful lease, try the
	// default TTL.
	for _, ttl := range []time.Duration{c.clampTTL(s.TTL), c.clampTTL(DefaultTiming.TTL)} {
		s.TTL = ttl
		s.LoopWait = roundDown(min(DefaultTiming.LoopWait, ttl/3, (ttl-Margin(ttl))/2))
		s.RetryTimeout = roundDown(min(DefaultTiming.RetryTimeout, (ttl-s.LoopWait)/2))
		if s.LoopWait > 0 && s.RetryTimeout > 0 && len(s.ruleFaults(ttl)) == 0 {
			return s, true
		}
	}
	return Timing{}, false
}

// roundDown returns d without its smallest digits, so that messages are readable.
func roundDown(d time.Duration) time.Duration {
	for _, unit := range []time.Duration{time.Second, 100 * time.Millisecond, time.Millisecond} {
		if d >= 5*unit {
			return d.Truncate(unit)
		}
	}
	return d
}

// clampTTL moves ttl into the range that the store grants. A bound of 0 is none.
func (c Caps) clampTTL(ttl time.Duration) time.Duration {
	if c.MaxTTL > 0 {
		ttl = min(ttl, c.MaxTTL)
	}
	return max(ttl, c.MinTTL)
}

// satAdd adds two durations that are not negative, limited to the largest one.
func satAdd(a, b time.Duration) time.Duration {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
