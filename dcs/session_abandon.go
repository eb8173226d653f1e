package dcs

import "errors"

// errAbandoned is returned by calls that would delete keys of an abandoned session.
var errAbandoned error = &Error{Kind: ErrReleased, Err: errors.New("the session was abandoned: its keys stay until the lease expires")}

// Abandon ends the session and leaves its lease and its keys in the store until the
// lease expires, as if the process had crashed. From then on the session renews
// nothing and deletes nothing. Its Holds end with ErrReleased, and [Hold.Release]
// and [Session.Close] send nothing and return ErrReleased.
//
// Abandon is meant for a holder that could not stop its service in time: no other
// session can take the lock before the lease runs out. A deletion that was sent
// before the call may still be applied. Abandon does no I/O. After Close it has no
// effect.
func (s *Session) Abandon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.abandoned || s.closing != nil {
		return
	}
	s.abandoned = true
	s.endLocked(withOp("Abandon", "", errAbandoned))
	close(s.close) // ends cleanUp
}

func (s *Session) isAbandoned() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.abandoned
}
