// Package bubble runs tests in bubbles of testing/synctest.
//
// A bubble in a program with the race detector has one processor (GOMAXPROCS). Up to Go 1.26,
// all channel timers of a bubble fire in one context of the detector. Goroutines on two
// processors that look at timers that are due at the same moment use that context at once and
// destroy it. The program then ends, with exit status 66 and "ThreadSanitizer: CHECK failed", or
// with 2 and "SIGSEGV", see https://go.dev/issue/78156. On one processor this cannot happen,
// because nothing interrupts a timer that fires.
//
// The detector finds races by the order of events, not by their time, so that it finds them on
// one processor too.
package bubble

import (
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
)

// Test is like [synctest.Test]. With the race detector the whole program runs on one
// processor until Test returns. Several Tests may run at once.
func Test(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	if raceDetector {
		defer oneProcessor()()
	}
	synctest.Test(t, f)
}

// bubbles counts the bubbles that exist.
var bubbles struct {
	sync.Mutex
	n int
	// processors is how many processors the program had before the first of them.
	processors int
}

// oneProcessor makes the program run on one processor until done is called, and done was called
// for all others.
func oneProcessor() (done func()) {
	bubbles.Lock()
	defer bubbles.Unlock()
	if bubbles.n++; bubbles.n == 1 {
		bubbles.processors = runtime.GOMAXPROCS(1)
	}
	return func() {
		bubbles.Lock()
		defer bubbles.Unlock()
		if bubbles.n--; bubbles.n == 0 {
			runtime.GOMAXPROCS(bubbles.processors)
		}
	}
}
