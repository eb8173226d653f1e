package dcs

import "time"

// Observer is a set of optional callbacks over everything a Store, its
// sessions and its backend do; nil means off. Events are structs, so that they
// can grow.
//
// Each callback receives its events in order and one at a time, from a goroutine
// of its own, shortly after the event and possibly after the call that caused it
// has returned. A callback may block and may call any method of the Store and
// its Sessions, Close included. Events that arrive while [QueueSize] others wait
// are dropped, which the Logger reports; see [Detached]. A program must not
// learn from events alone that a lock is lost: use [Hold.Valid], [Hold.Done]
// and [Session.Done].
type Observer struct {
	// Call receives every finished call.
	Call func(CallEvent)
	// Endpoint receives every decision about the servers: a switch from one
	// to another, an ejection, a return.
	Endpoint func(EndpointEvent)
	// Renewal receives every finished renewal of a session.
	Renewal func(RenewalEvent)
	// State receives every change of a Session's or Hold's state.
	State func(StateEvent)

	detached bool // the callbacks queue already
}

// CallEvent is one finished call to a backend.
type CallEvent struct {
	Backend  string
	Op       string
	Key      string
	Endpoint string // the server that answered, if known
	Duration time.Duration
	Err      error // nil for a yes; its kind is the outcome
}

// EndpointEvent is one decision about the servers, with the reason in words.
type EndpointEvent struct {
	Backend string
	// Change says what was decided.
	Change EndpointChange
	// From is the server that calls went to, or the one concerned; To the one
	// that they go to now, for Switched, and else empty.
	From, To string
	Reason   string
}

// EndpointChange is what a backend decided about a server.
type EndpointChange uint8

const (
	// Switched says that calls go to To now, and no longer to From.
	Switched EndpointChange = iota
	// Ejected says that From is left out, and probed until it serves again.
	Ejected
	// Restored says that From serves again and may be used.
	Restored
	// Added says that From was not known before.
	Added
	// Removed says that From does not belong to the store any more.
	Removed
)

// String returns the change in lower case.
func (c EndpointChange) String() string {
	switch c {
	case Switched:
		return "switched"
	case Ejected:
		return "ejected"
	case Restored:
		return "restored"
	case Added:
		return "added"
	default:
		return "removed"
	}
}

// RenewalEvent is one finished renewal of a session's lease.
type RenewalEvent struct {
	Lease    LeaseID
	Duration time.Duration
	Renewal  Renewal // zero when Err is not nil
	// Deadline is the session's deadline after this renewal.
	Deadline Instant
	Err      error
}

// StateEvent is one change of state.
type StateEvent struct {
	Lease LeaseID
	// Key is the lock or published key concerned; empty for the Session.
	Key string
	// Token is the fencing token of the Hold concerned, or 0.
	Token    Revision
	From, To State
	// Reason says why: the error that ended it, or nil.
	Reason error
	// Displaced reports that another session took over the published key Key,
	// or that the key was deleted. The Session itself goes on.
	Displaced bool
}

// State is what a Session or Hold knows of itself.
type State uint8

const (
	// Held says that the last renewal was confirmed.
	Held State = iota
	// Unknown says that the last renewal failed and that the deadline counts
	// down. Still valid until then.
	Unknown
	// Lost says that it is over, for good.
	Lost
)

// String returns the state's name in lower case.
func (s State) String() string {
	switch s {
	case Held:
		return "held"
	case Unknown:
		return "unknown"
	default:
		return "lost"
	}
}
