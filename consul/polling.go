package consul

import (
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// polling bounds how often the tree is read: each answer to the blocking query is
// the whole of it, and every Commit of any client, whose marker lies in it, ends
// each client's query. A burst is answered at once. After that a tree that is
// large, or in which no Wait waits for what changes, is read twice a second, and
// when a Wait begins.
type polling struct {
	bytes   float64 // that may be read at once
	answers float64 // for which no Wait waited, that may be read at once
	at      dcs.Instant
}

const (
	pollBurst   = 1 << 20  // bytes
	pollLeast   = 64 << 10 // bytes a second, where the tree is small
	pollTrees   = 2        // trees a second, where it is large
	pollAnswers = 32       // for which no Wait waited
)

// longestPoll is the longest pause between two queries.
const longestPoll = time.Second / pollTrees

// pause counts an answer of n bytes, and returns for how long to wait before the
// next query. woke says that a Wait waited for what it brought.
func (p *polling) pause(n int, woke bool) time.Duration {
	rate := max(pollTrees*float64(n), pollLeast)
	if p.at.IsZero() {
		p.bytes, p.answers = pollBurst, pollAnswers
	} else {
		passed := p.at.Elapsed().Seconds()
		p.bytes = min(p.bytes+rate*passed, pollBurst)
		p.answers = min(p.answers+pollTrees*passed, pollAnswers)
	}
	p.at = dcs.Now()
	p.bytes = max(p.bytes-float64(n), -float64(n)) // no debt above one tree
	if !woke {
		p.answers = max(p.answers-1, -1)
	}
	debt := max(-p.bytes/rate, -p.answers/pollTrees, 0)
	return min(time.Duration(debt*float64(time.Second)), longestPoll)
}

// size is about how long the JSON of a listed tree is.
func (l listed) size() int {
	const rest = 160 // the names of the fields, and numbers
	n := 0
	for _, e := range l.entries {
		n += len(e.Key) + len(e.Value)*4/3 + rest
	}
	return n
}
