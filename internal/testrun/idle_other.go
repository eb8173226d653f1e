//go:build !linux

package main

import "time"

// idleTime reports that the time is not known.
func idleTime() (time.Duration, bool) { return 0, false }
