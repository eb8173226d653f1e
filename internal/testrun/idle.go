package main

import "time"

// capacity is how much runs at the same time.
type capacity struct {
	lanes    int // packages; their tests mostly wait for a store's time to pass
	clusters int // packages with a cluster of servers
}

var (
	// always is the capacity that every machine has. With three clusters, and two
	// programs that keep the processors busy, two processors left stores no time to
	// answer within a budget.
	always = capacity{lanes: 3, clusters: 2}
	// most is the capacity of a machine that has nothing else to do. Jobs beyond always
	// start only while processors are free.
	most = capacity{lanes: 5, clusters: 4}
)

// idleNeeded is how many processors must be idle at the start for the overlap: the
// clusters of always keep one of them busy.
const idleNeeded = 1.7

// idleSample is how long the machine is looked at for that. A program that keeps a
// processor busy shows in less.
const idleSample = time.Second

// How many processors must have been free for another job beyond always: a cluster keeps
// half a processor busy, and a quarter is left for its bursts.
const (
	freeForCluster = 0.75
	freeForJob     = 0.4
)

// freeSample is how long processors must have been free. It is longer than a cluster
// takes to start, so that the load of the job that was started last is part of it.
const freeSample = 5 * time.Second

// processors are the times of all processors together, since the machine was started.
type processors struct {
	idle time.Duration // they had nothing to do, or waited for a disk
	nice time.Duration // they ran programs of less priority
}

// A meter measures how many processors are free.
type meter struct {
	read func() (processors, bool) // false if it cannot be known
	at   time.Time
	last processors
}

// free returns how many processors were free since the last call, on the average. With
// nice, those that ran programs of less priority count too.
func (m *meter) free(nice bool) float64 {
	now, known := m.read()
	if !known {
		return 0
	}
	at := time.Now()
	took := at.Sub(m.at).Seconds()
	free := now.idle - m.last.idle
	if nice {
		free += now.nice - m.last.nice
	}
	m.at, m.last = at, now
	if took <= 0 {
		return 0
	}
	return free.Seconds() / took
}

// idleMachine looks at the machine for the time of a sample, and reports whether it has
// little else to do.
func (m *meter) idleMachine(sample func(time.Duration)) bool {
	m.free(false)
	sample(idleSample)
	return m.free(false) >= idleNeeded
}
