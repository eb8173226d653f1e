//go:build !linux

package dcs

// bootTimer exists on Linux only.
type bootTimer struct{}

func newBootTimer(func(), func(func())) *bootTimer { return nil }

func (*bootTimer) set(Instant) {}
func (*bootTimer) stop()       {}
