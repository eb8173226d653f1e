package dcs

import "errors"

// errAbandoned is why an abandoned session deletes nothing.
var errAbandoned error = &Error{Kind: ErrReleased, Err: errors.New("the session was abandoned: its keys stay until the lease expires")}

// Abandon ends the session and leaves its lease and its keys in the store until
// the lease expires, as if the process had died. The session renews nothing and
// deletes nothing from then on. Its Holds are over with ErrReleased, and
// [Hold.Release] and [Session.Close] send nothing and return ErrReleased.
//
// It is for a holder that could not stop its service in time: nobody else may
// take the lock before the lease runs out. A deletion that had been sent before
// the call may still be carried out. Abandon does no I/O. After Close it does
// nothing.
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
