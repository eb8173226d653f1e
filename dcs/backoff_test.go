package dcs

import (
	"math"
	"testing"
	"time"
)

// The bound of a delay doubles up to most, for any number of failures, and a delay is
// more than 0.
func TestBackoff(t *testing.T) {
	b := backoff{first: 100 * time.Millisecond, most: 5 * time.Second}
	for failures, bound := range []time.Duration{100, 200, 400, 800, 1600, 3200, 5000, 5000} {
		bound *= time.Millisecond
		var longest time.Duration
		for range 1000 {
			d := b.delay(failures)
			if longest = max(longest, d); d <= 0 || d > bound {
				t.Fatalf("after %d failures: %v, want at most %v", failures, d, bound)
			}
		}
		if longest < bound/2 {
			t.Errorf("after %d failures the longest of 1000 delays was %v, with a bound of %v", failures, longest, bound)
		}
	}
	if d := b.delay(math.MaxInt); d <= 0 || d > b.most {
		t.Errorf("after very many failures: %v", d)
	}
}
