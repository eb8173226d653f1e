package endpoint

import "time"

// latency is what one class of calls usually takes at one endpoint.
type latency struct {
	mean, dev time.Duration // 0: not known
}

// add takes a sample: an eighth of it, as TCP does for round trips.
func (l *latency) add(d time.Duration) {
	d = max(d, 1)
	if l.mean == 0 {
		l.mean, l.dev = d, d/2
		return
	}
	off := d - l.mean
	l.mean += off / 8
	l.dev += (max(off, -off) - l.dev) / 4
}

// damped is a sample of an ordinary call, so that one hiccup does not move the
// calls elsewhere; an endpoint that stays slow is found by the hedges it loses.
func (l *latency) damped(d time.Duration) time.Duration {
	if l.mean == 0 {
		return d
	}
	return min(d, 4*l.mean)
}

// atLeast takes a lower bound: what had not been answered after d.
func (l *latency) atLeast(d time.Duration) {
	if d > l.mean {
		l.add(d)
	}
}

// member is one endpoint with what is known of it.
type member struct {
	addr   string
	name   *name  // whose address it is, or nil
	id     string // of the server that answers there; empty means unknown
	seed   bool
	listed bool // in the store's own list
	leads  bool
	rank   int // in the order in which they became known, seeds first

	silentAt time.Duration // its first fault since it last answered; 0: none
	dropped  bool          // its connections were given up since it was ejected
	shadowed bool          // another address of the same server stands for it
	gone     bool          // it has been removed

	lat     [classes]latency
	open    []*Attempt // unanswered, oldest first
	strikes int        // faults in a row

	doubtAt  time.Duration // when it last said that it could not serve; 0: not since it served
	doubtWhy string

	busyUntil time.Duration // until when it asks to be left alone
	busyWhy   string
	throttled bool // it refused the last request because there are too many

	unreachable bool // the last fault was that it cannot be used at all

	out     bool          // left out
	why     string        // the last fault
	proven  int           // probes in a row that were answered, while out
	pause   time.Duration // before the next probe, before jitter
	probeAt time.Duration // when to ask it next
	probing bool
	triedAt time.Duration // when it was last picked
}

// usual is the usual latency for a class, or that of any class, or 0.
func (m *member) usual(c Class) time.Duration {
	if d := m.lat[c].mean; d > 0 {
		return d
	}
	for _, l := range m.lat {
		if l.mean > 0 {
			return l.mean
		}
	}
	return 0
}

// slower reports whether a is so much slower than b that it matters. Classes
// of which one of the two knows nothing say nothing.
func slower(a, b *member) bool {
	for c := range classes {
		x, y := a.lat[c].mean, b.lat[c].mean
		if x > 0 && y > 0 {
			return x > 2*y && x > y+2*time.Millisecond
		}
	}
	return false
}

// remove takes an attempt out of the unanswered ones.
func (m *member) remove(a *Attempt) {
	for i, b := range m.open {
		if a == b {
			m.open = append(m.open[:i], m.open[i+1:]...)
			return
		}
	}
}
