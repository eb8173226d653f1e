package conformance

import (
	"os"
	"regexp"
	"strconv"
	"time"
)

// mostShare bounds the time that contention adds to a bound, in multiples of the bound. A
// program that has got less than about a third of a processor is not measured any more.
const mostShare = 2

// pressureFile has the pressure on the processors, on Linux since 4.20.
const pressureFile = "/proc/pressure/cpu"

var someTotal = regexp.MustCompile(`(?m)^some .*\btotal=(\d{1,15})$`)

// contended returns the time since the start of the machine for which at least one program
// has waited for a processor, or 0 if the system does not measure it.
func contended() time.Duration {
	text, err := os.ReadFile(pressureFile)
	if err != nil {
		return 0
	}
	return parsePressure(text)
}

func parsePressure(text []byte) time.Duration {
	m := someTotal.FindSubmatch(text)
	if m == nil {
		return 0
	}
	us, err := strconv.ParseInt(string(m[1]), 10, 64)
	if err != nil {
		return 0
	}
	return time.Duration(us) * time.Microsecond
}

// mostContended returns the longest time for which programs waited for a processor within
// any period of the given length.
func mostContended(samples []sample, length time.Duration) (most time.Duration) {
	first := 0
	for i, s := range samples {
		if s.contended == 0 {
			continue
		}
		for first < i && (samples[first].contended == 0 || s.due.Sub(samples[first].due) > length) {
			first++
		}
		most = max(most, s.contended-samples[first].contended)
	}
	return most
}
