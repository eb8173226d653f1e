// Package scratch makes directories for the temporary files of tests and builds, in
// memory where there is room. The disk is shared with other programs, and one fsync was
// seen to take seconds.
package scratch

import "os"

// memory is the directory in which Linux keeps files in memory.
const memory = "/dev/shm"

// Make makes a directory whose name begins with prefix. It is in memory if need bytes
// are free there and programs can be run from it. The caller removes it.
func Make(prefix string, need uint64) (dir string, err error) { return makeIn(prefix, need, roomIn) }

func makeIn(prefix string, need uint64, room func(dir string) (bytes uint64, usable bool)) (dir string, err error) {
	parent := ""
	if free, usable := room(memory); usable && free >= need {
		parent = memory
	}
	return os.MkdirTemp(parent, prefix)
}
