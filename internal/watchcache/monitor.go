package watchcache

import (
	"sync"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
)

// monitor decides when the endpoint of a watch is probed, and whether it is silent
// or lags. It starts no goroutine and does not block.
//
//   - An endpoint is silent if it has not answered the opening or a probe, and sends
//     nothing for the timeout of an attempt. A watch without changes is probed every
//     Cache.Every.
//   - An endpoint lags if the Tree does not reach a revision that another answer has
//     named, although the endpoint has answered a probe since. That revision is fixed
//     until the Tree reaches it. Compared with the latest revision, every endpoint
//     would lag while there are writes.
type monitor struct {
	c *Cache

	mu         sync.Mutex
	opened     bool         // the endpoint has answered
	answeredAt dcs.Instant  // when it last answered
	asked      dcs.Instant  // when the last probe was sent, or the watch began
	probing    bool         // a probe is in flight
	target     dcs.Revision // revision that the Tree must reach; 0 means none
	targetAt   dcs.Instant  // when target was set
	probed     dcs.Revision // the target when the probe was sent
	proven     bool         // a probe that was sent for target was answered
}

func newMonitor(c *Cache) monitor {
	now := dcs.Now()
	return monitor{c: c, answeredAt: now, asked: now}
}

// open marks the watch as open and reports whether it was not open before.
func (m *monitor) open() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	first := !m.opened
	m.opened = true
	return first
}

// noteAnswer records an answer. It reports whether that was the first one, and whether
// the Tree has reached its target.
func (m *monitor) noteAnswer() (first, current bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	first, m.opened, m.answeredAt = !m.opened, true, dcs.Now()
	return first, m.aim()
}

// aim sets the next target if the Tree has reached the current one, and reports
// whether it has. Without a target it reports whether the Tree is at the latest
// revision. Under m.mu.
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

// probeEnded records the end of the probe and whether it was answered.
func (m *monitor) probeEnded(answered bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.probing = false
	m.proven = m.proven || answered && m.target > 0 && m.probed == m.target
}

// check reports whether a probe must be sent now, and how long to wait before the
// next check. It returns an error if the watch must end.
func (m *monitor) check() (probe bool, wait time.Duration, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.opened || m.probing {
		class := endpoint.Read
		if !m.opened {
			class = endpoint.List
		}
		limit := m.c.Pool.AttemptTimeout(class, m.c.Budget, 0)
		silent := min(m.answeredAt.Elapsed(), m.asked.Elapsed())
		if silent >= limit {
			return false, 0, silentFor(m.answeredAt.Elapsed())
		}
		wait = limit - silent
	} else {
		wait = m.c.Every - min(m.answeredAt.Elapsed(), m.asked.Elapsed())
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
		return true, time.Millisecond, nil // the next check waits for the probe's timeout
	}
	return false, max(wait, time.Millisecond), nil
}

// checkLag reports whether the endpoint must be probed because of its lag, and how
// long to wait before the next check of that. 0 means that there is no lag. Under m.mu.
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
