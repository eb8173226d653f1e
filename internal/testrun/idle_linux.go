package main

import (
	"bytes"
	"os"
	"strconv"
	"time"
)

// tick is the unit of /proc/stat, which is the same on every processor that Go
// supports (USER_HZ, see proc(5)).
const tick = 10 * time.Millisecond

// idleTime returns how long the machine's processors were idle since it started.
func idleTime() (time.Duration, bool) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, false
	}
	return parseIdle(stat)
}

// parseIdle finds the time in which no processor had anything to do, or waited for a
// disk: the fourth and the fifth figure of the first line of /proc/stat.
func parseIdle(stat []byte) (idle time.Duration, ok bool) {
	line, _, _ := bytes.Cut(stat, []byte("\n"))
	fields := bytes.Fields(line)
	if len(fields) < 6 || string(fields[0]) != "cpu" {
		return 0, false
	}
	for _, f := range fields[4:6] {
		n, err := strconv.ParseInt(string(f), 10, 64)
		if err != nil {
			return 0, false
		}
		idle += time.Duration(n) * tick
	}
	return idle, true
}
