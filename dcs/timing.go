package dcs

import "time"

// Timing is the three settings that everything else is derived from.
type Timing struct {
	// TTL is how long a lease lives without a renewal.
	TTL time.Duration
	// LoopWait is the longest pause between two renewals.
	LoopWait time.Duration
	// RetryTimeout is the budget of one call, retries included.
	RetryTimeout time.Duration
}

// DefaultTiming is used where a Timing is left zero.
var DefaultTiming = Timing{TTL: 30 * time.Second, LoopWait: 10 * time.Second, RetryTimeout: 10 * time.Second}

// Validate returns every fault at once.
func (t Timing) Validate(c Caps) error { return errStub }
