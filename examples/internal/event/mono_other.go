//go:build !(linux || darwin || freebsd || openbsd || dragonfly || solaris)

package event

import "time"

var start = time.Now()

// Mono stands in for CLOCK_MONOTONIC where that is not to be had: monotonic
// within a process, and counted from the wall clock at its start, so that the
// processes of one machine still compare.
func Mono() int64 { return start.UnixNano() + int64(time.Since(start)) }
