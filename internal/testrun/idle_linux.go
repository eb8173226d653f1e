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

// readProcessors reads the times of the processors.
func readProcessors() (processors, bool) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return processors{}, false
	}
	return parseProcessors(stat)
}

// parseProcessors finds the times in the first line of /proc/stat: nice is the second
// figure, idle the sum of the fourth and the fifth (see proc(5)).
func parseProcessors(stat []byte) (p processors, ok bool) {
	line, _, _ := bytes.Cut(stat, []byte("\n"))
	fields := bytes.Fields(line)
	if len(fields) < 6 || string(fields[0]) != "cpu" {
		return processors{}, false
	}
	var t [5]time.Duration
	for i, f := range fields[1:6] {
		n, err := strconv.ParseInt(string(f), 10, 64)
		if err != nil {
			return processors{}, false
		}
		t[i] = time.Duration(n) * tick
	}
	return processors{idle: t[3] + t[4], nice: t[1]}, true
}
