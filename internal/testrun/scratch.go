package main

import "os"

// memory is where Linux keeps files in memory.
const memory = "/dev/shm"

// memoryNeeded is how much room the tests' files need there: nine servers and as
// many embedded nodes, which allocate their logs 64 MiB at a time, with as much
// again to spare.
const memoryNeeded = 6 << 30

// scratch makes a directory for the temporary files of the tests, in memory where
// there is room. The disk is shared with the builds and with other programs, and
// one fsync was seen to take seconds. A server that is killed
// keeps its files in memory as it keeps them in the page cache, so no test shows
// less for that. The slow profile and a plain go test use the disk.
func scratch(room func(dir string) (bytes uint64, usable bool)) (dir string, err error) {
	parent := ""
	if free, usable := room(memory); usable && free >= memoryNeeded {
		parent = memory
	}
	return os.MkdirTemp(parent, "holdfast-scratch-")
}
