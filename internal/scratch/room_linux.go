package scratch

import "golang.org/x/sys/unix"

// roomIn returns how much room a file system has, and whether programs can be run
// from it.
func roomIn(dir string) (bytes uint64, usable bool) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, false
	}
	return s.Bavail * uint64(s.Bsize), s.Flags&unix.ST_NOEXEC == 0
}
