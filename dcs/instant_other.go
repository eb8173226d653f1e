//go:build !linux

package dcs

import "time"

// systemBootClock stands still: no time asleep is known here, Go's monotonic
// clock is all there is. It already counts suspended time on Windows; on the
// others a suspended machine learns of its loss at the next answer of the
// store.
func systemBootClock() time.Duration { return 0 }
