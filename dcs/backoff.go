package dcs

import (
	"math/rand/v2"
	"time"
)

// backoff paces retries. The bound of its delays doubles with each
// failure. Full jitter keeps the many clients of a store that comes back from calling
// at the same moment. Other packages use internal/backoff, which dcs must not import.
type backoff struct{ first, most time.Duration }

// sessionBackoff paces a Session.
var sessionBackoff = backoff{first: 50 * time.Millisecond, most: 2 * time.Second}

// delay returns the pause after a failure that the given number of failures preceded.
func (b backoff) delay(failures int) time.Duration {
	bound := min(b.first<<min(failures, 10), b.most)
	return rand.N(bound) + 1 //nolint:gosec // G404: jitter needs no secrecy
}
