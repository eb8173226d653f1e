package endpoint

import "time"

// latency is the usual latency of one class of calls at one endpoint.
type latency struct {
	mean, dev time.Duration // 0 means unknown
}

// add adds a sample to the moving average with a weight of one eighth, as TCP does
// for round trips.
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

// damped limits the sample of an ordinary call to four times the mean, so that one
// slow answer does not move calls to another endpoint. An endpoint that stays slow
// loses hedges, and is detected by those.
func (l *latency) damped(d time.Duration) time.Duration {
	if l.mean == 0 {
		return d
	}
	return min(d, 4*l.mean)
}

// atLeast takes d as a lower bound of a latency, from a call that was unanswered
// after d.
func (l *latency) atLeast(d time.Duration) {
	if d > l.mean {
		l.add(d)
	}
}

// member is one endpoint and its state.
type member struct {
	addr   string
	name   *name  // the host name that addr belongs to, or nil
	id     string // identity of the server that answers there; empty means unknown
	seed   bool
	listed bool // in the store's own list
	leads  bool
	rank   int // position in the order in which endpoints became known, seeds first

	silentAt time.Duration // its first failure since it last answered; 0 means none
	dropped  bool          // its connections were dropped since it was ejected
	shadowed bool          // another endpoint of the same server is used instead
	idle     bool          // it needed no connection when the endpoints were last grouped
	gone     bool          // removed from the Pool

	lat      [classes]latency
	open     []*Attempt // unanswered, oldest first
	failures int        // failures in a row

	doubtAt  time.Duration // when it last answered that it cannot serve; 0 means not since it served
	doubtWhy string

	busyUntil time.Duration // until when it asked not to be called
	busyWhy   string
	throttled bool // it refused the last request because there were too many

	unreachable bool // the last failure was that it cannot be used at all

	ejected bool          // not used until it is restored
	why     string        // reason of the last failure
	probed  bool          // a probe has succeeded
	again   bool          // the next probe replaces the latency, which includes the time of connecting
	proven  int           // successful probes in a row since it was ejected
	pause   time.Duration // before the next probe, before jitter
	probeAt time.Duration // when the next probe is due
	probing bool
	triedAt time.Duration // when it was last picked
}

// usual returns the usual latency of a class, or that of any class if it is unknown,
// or 0.
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

// slower reports whether a is more than twice as slow as b, and by more than 2 ms. It
// compares the first class whose latency is known for both.
func slower(a, b *member) bool {
	for c := range classes {
		x, y := a.lat[c].mean, b.lat[c].mean
		if x > 0 && y > 0 {
			return x > 2*y && x > y+2*time.Millisecond
		}
	}
	return false
}

// remove removes an attempt from the unanswered ones.
func (m *member) remove(a *Attempt) {
	for i, b := range m.open {
		if a == b {
			m.open = append(m.open[:i], m.open[i+1:]...)
			return
		}
	}
}
