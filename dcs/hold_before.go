package dcs

import "time"

// earlyEnd is a channel that closes some time before the session's deadline.
type earlyEnd struct {
	before time.Duration
	c      chan struct{}
}

// DoneBefore returns a channel that is closed when d is left until the deadline,
// or when the Hold ends, whichever is first. Each confirmed renewal moves that
// moment with the deadline. A holder that needs time to stop should begin to stop
// when the channel closes:
//
//	case <-hold.DoneBefore(stopTimeout): // stop now
//
// The channel is closed within a millisecond of that moment on a machine that is
// not overloaded, also if the store has shortened the lease. It is closed at once
// if less than d is left. A closed channel stays closed. A holder that goes on
// after a later renewal must use another d or [Hold.Remaining]. Calls with the same
// d return the same channel, which costs no goroutine. If d is 0 or less, the
// channel is that of [Hold.Done].
func (h *Hold) DoneBefore(d time.Duration) <-chan struct{} {
	s := h.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.err == nil && !s.live() {
		s.expireLocked()
	}
	if d <= 0 || h.err != nil {
		return h.done
	}
	if e := h.early[d]; e != nil {
		return e.c
	}
	e := &earlyEnd{before: d, c: make(chan struct{})}
	if h.early == nil {
		h.early = map[time.Duration]*earlyEnd{}
	}
	h.early[d] = e
	if d >= -s.last.Elapsed() {
		close(e.c)
		return e.c
	}
	s.earlyEnds[e] = struct{}{}
	s.setTimerEarlier(d)
	return e.c
}

// setTimerEarlier sets the session's timer to the instant at which before is left,
// if it is set to a later one. Called under mu.
func (s *Session) setTimerEarlier(before time.Duration) {
	if at := s.last.Add(-before); at.Before(s.timerAt) {
		s.timerAt = at
		s.timer.set(at)
	}
}

// resetTimer closes the channels of DoneBefore that are due and sets the session's
// timer to the next of them, or to the deadline. Called under mu.
func (s *Session) resetTimer() {
	left, next := -s.last.Elapsed(), time.Duration(0)
	for e := range s.earlyEnds {
		if e.before >= left {
			s.closeEarly(e)
		} else {
			next = max(next, e.before)
		}
	}
	s.timerAt = s.last.Add(-next)
	s.timer.set(s.timerAt)
}

// closeEarly closes the channel of e, unless it is closed. Called under mu.
func (s *Session) closeEarly(e *earlyEnd) {
	if _, open := s.earlyEnds[e]; open {
		delete(s.earlyEnds, e)
		close(e.c)
	}
}
