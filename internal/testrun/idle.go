package main

import "time"

// capacity is how much runs at the same time.
type capacity struct {
	lanes    int // packages; their tests mostly wait for a store's time to pass
	clusters int // packages with a cluster of servers, see mostClusters
	// overlap: packages that compute run with less priority at the same time as those
	// that wait, and not before them.
	overlap bool
}

var (
	// whileOthersRun is the capacity while other programs run. With three clusters, and
	// two programs that keep the processors busy, two processors left stores no time
	// to answer within a budget.
	whileOthersRun = capacity{lanes: 3, clusters: 2}
	// alone is the capacity on a machine that has nothing else to do.
	alone = capacity{lanes: 5, clusters: 3, overlap: true}
)

// idleNeeded is how many processors must be idle for alone: three clusters keep one
// and a half busy.
const idleNeeded = 1.7

// idleSample is how long the machine is looked at. A program that keeps a processor
// busy shows in less.
const idleSample = time.Second

// measureCapacity looks at the machine for the time of a sample. idle returns how
// long its processors were idle since it started, together, and whether it can be
// known.
func measureCapacity(idle func() (time.Duration, bool), sample func(time.Duration)) capacity {
	before, known := idle()
	begin := time.Now()
	sample(idleSample)
	took := time.Since(begin)
	after, _ := idle()
	if !known || (after-before).Seconds() < idleNeeded*took.Seconds() {
		return whileOthersRun
	}
	return alone
}
