package watchcache

import (
	"sync"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
)

// monitor decides when the endpoint of a watch is probed, and whether it is silent
// or lags. It starts no goroutine and waits for nothing.
//
//   - An endpoint is silent if it owes an answer, to the opening or to a probe, and
//     sends nothing for as long as an attempt may take. A watch without changes is
//     probed every Cache.Every.
//   - An endpoint lags if the Tree does not reach one revision that another answer
//     has named, although the endpoint has answered a probe since. Compared with the
//     latest revision it would always lag while there are writes.
type monitor struct {
	c *Cache

	mu       sync.Mutex
	opened   bool         // the endpoint has answered
	heard    dcs.Instant  // its last answer
	asked    dcs.Instant  // when it was asked last, or the watch began
	probing  bool         // a probe is under way
	target   dcs.Revision // that the Tree must reach; 0: none
	targetAt dcs.Instant  // since when
	probed   dcs.Revision // the target when the probe was sent
	proven   bool         // a probe was answered that was sent for the target
}

func newMonitor(c *Cache) monitor {
	now := dcs.Now()
	return monitor{c: c, heard: now, asked: now}
}

// open marks the watch as open and reports whether it was not before.
func (m *monitor) open() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	first := !m.opened
	m.opened = true
	return first
}

// heardNow notes an answer. It reports whether that was the first one, and whether
// the Tree has reached the revision that it must reach.
func (m *monitor) heardNow() (first, current bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	first, m.opened, m.heard = !m.opened, true, dcs.Now()
	return first, m.aim()
}

// aim sets the next target if the Tree has reached the present one, and reports
// whether it has. Under m.mu.
func (m *monitor) aim() bool {
	at, latest := m.c.Tree.Revision(), m.c.Latest()
	if at < m.target {
		return false
	}
	reached := m.target > 0 || at >= latest
	m.target, m.proven = 0, false
	if at < latest {
		m.target, m.targetAt = latest, dcs.Now()
	}
	return reached
}

// probeEnded notes that the probe has ended, and whether it was answered.
func (m *monitor) probeEnded(answered bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.probing = false
	m.proven = m.proven || answered && m.target > 0 && m.probed == m.target
}

// check reports whether a probe must be sent now, and when to check again. The
// error says why the watch must end.
func (m *monitor) check() (probe bool, wait time.Duration, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.opened || m.probing {
		limit := m.c.Pool.AttemptTimeout(endpoint.Read, m.c.Budget, 0)
		silent := min(m.heard.Elapsed(), m.asked.Elapsed())
		if silent >= limit {
			return false, 0, silentFor(m.heard.Elapsed())
		}
		wait = limit - silent
	} else {
		wait = m.c.Every - min(m.heard.Elapsed(), m.asked.Elapsed())
		probe = wait <= 0
	}
	if m.opened {
		due, next, err := m.checkLag()
		if err != nil {
			return false, 0, err
		}
		probe = !m.probing && (probe || due)
		if next > 0 {
			wait = min(wait, next)
		}
	}
	if probe {
		m.probing, m.probed, m.asked = true, m.target, dcs.Now()
		return true, time.Millisecond, nil // the probe's own time is set then
	}
	return false, max(wait, time.Millisecond), nil
}

// checkLag reports whether the endpoint must be probed because of its lag, and
// when to check that again; 0 means that nothing is missing. Under m.mu.
func (m *monitor) checkLag() (probe bool, wait time.Duration, err error) {
	if m.aim(); m.target == 0 {
		return false, 0, nil
	}
	lag, grace, again := m.targetAt.Elapsed(), m.c.Limit+m.c.Delay, m.c.Limit/2
	switch {
	case lag < grace:
		return false, grace - lag, nil
	case m.proven && lag >= grace+again:
		return false, 0, ErrBehind
	case m.probed == m.target && m.asked.Elapsed() < again:
		return false, again - m.asked.Elapsed(), nil
	}
	return true, again, nil
}
