//go:build !linux

package scratch

// roomIn reports that no file system keeps files in memory.
func roomIn(string) (bytes uint64, usable bool) { return 0, false }
