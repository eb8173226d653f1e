package consul

import (
	"math/rand/v2"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// polling bounds the number of bytes that blocking queries return. Each answer is the
// whole tree, and every Commit of any client ends the queries of all clients, because its
// marker lies in the tree. A burst is read at once. After that a busy tree is read about
// twice a second, and a small one more often.
type polling struct {
	left float64 // bytes that may be read at once
	at   dcs.Instant
}

const (
	pollBurst = 1 << 20  // bytes
	pollLeast = 64 << 10 // bytes a second, for a small tree
	pollTrees = 2        // trees a second, for a large tree
)

// longestPoll is the longest pause between two queries.
const longestPoll = time.Second / pollTrees

// pause counts an answer of n bytes, and returns the time to wait before the next query. The
// first pause after a burst is shorter by chance, because one Commit ends the bursts of all
// clients, whose later queries must not end together as well.
func (p *polling) pause(n int) time.Duration {
	paused := p.left < 0
	rate := max(pollTrees*float64(n), pollLeast)
	if p.at.IsZero() {
		p.left = pollBurst
	} else {
		p.left = min(p.left+rate*p.at.Elapsed().Seconds(), pollBurst)
	}
	p.at = dcs.Now()
	p.left = max(p.left-float64(n), -float64(n)) // no debt above one tree
	if p.left >= 0 {
		return 0
	}
	pause := min(time.Duration(-p.left/rate*float64(time.Second)), longestPoll)
	if !paused {
		pause = time.Duration(rand.Float64() * float64(pause)) //nolint:gosec // G404: jitter
	}
	return pause
}

// bytes returns the approximate length of the JSON of a listed tree.
func (l listed) bytes() int {
	const rest = 160 // the names of the fields, and numbers
	n := 0
	for _, e := range l.entries {
		n += len(e.Key) + len(e.Value)*4/3 + rest
	}
	return n
}
