//go:build !(linux || darwin || freebsd || openbsd || dragonfly)

package event

import "time"

var start = time.Now()

// Mono returns the nanoseconds since this process began: where the system's
// monotonic clock is not to be had, events of one process only compare.
func Mono() int64 { return int64(time.Since(start)) + 1 }
