// Package backoff paces retries.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// Exponential is a back-off whose bound doubles with each failure. Its delays have
// full jitter, so that many clients of a store that comes back do not come at once.
type Exponential struct {
	// First bounds the first delay, Most each delay.
	First, Most time.Duration
	// Rand returns a random number in [0, n). Nil means math/rand/v2.
	Rand func(n int64) int64
}

// mostDoublings keeps the bound of any sensible First from overflowing.
const mostDoublings = 20

// Bound returns the longest delay after a number of failures before the last one.
func (e Exponential) Bound(failures int) time.Duration {
	return min(e.First<<min(max(failures, 0), mostDoublings), e.Most)
}

// Delay returns a random delay of at most [Exponential.Bound], and more than 0.
func (e Exponential) Delay(failures int) time.Duration {
	random := e.Rand
	if random == nil {
		random = rand.Int64N
	}
	return time.Duration(random(int64(max(e.Bound(failures), 1)))) + 1
}

// Wait sleeps for a Delay.
func (e Exponential) Wait(ctx context.Context, failures int) { Sleep(ctx, e.Delay(failures)) }

// Sleep waits for d, or until ctx ends.
func Sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
