//go:build unix && !linux

package guardian

// newTimer returns -1: the child reads its clock every wakeInterval.
func newTimer() int { return -1 }

func setTimer(int, int64) bool { return false }

func protectChild() {}

func usualPriority() {}
