package dcs

import "time"

// Observer is a set of optional callbacks that receive the activity of a Store, its
// sessions and its backend. A nil callback is off. Events are structs so that fields
// can be added.
//
// Each callback receives its events in order and one at a time, from a goroutine
// of its own, shortly after the event and possibly after the call that caused it
// has returned. A callback may block and may call any method of the Store and its
// Sessions, Close included. Events that arrive while [QueueSize] others wait are
// dropped, which the Logger reports (see [Detached]). A program must therefore not
// rely on events to notice that a lock is lost. It must use [Hold.Valid],
// [Hold.Done] and [Session.Done].
type Observer struct {
	// Call receives every finished call.
	Call func(CallEvent)
	// Endpoint receives every change of the servers in use: a switch from one to
	// another, an ejection, a restoration.
	Endpoint func(EndpointEvent)
	// Renewal receives every finished renewal of a session.
	Renewal func(RenewalEvent)
	// State receives every change of a Session's or Hold's state.
	State func(StateEvent)

	detached bool // the callbacks already have queues
}

// CallEvent is one finished call to a backend.
type CallEvent struct {
	Backend  string
	Op       string
	Key      string
	Endpoint string // the server that answered, if known
	Duration time.Duration
	Err      error // nil for a success; KindOf and KindLabel classify it
}

// EndpointEvent is one change of the servers in use, with the reason in words.
type EndpointEvent struct {
	Backend string
	// Change is the kind of the change.
	Change EndpointChange
	// From is the server that calls used before, or the server concerned. To is
	// the server that calls use from then on. It is empty except for Switched.
	From, To string
	Reason   string
}

// EndpointChange is a backend's decision about a server.
type EndpointChange uint8

const (
	// Switched reports that calls go to To and no longer to From.
	Switched EndpointChange = iota
	// Ejected reports that From is not used, and is probed until it serves again.
	Ejected
	// Restored reports that From serves again and may be used.
	Restored
	// Added reports that From was discovered.
	Added
	// Removed reports that From no longer belongs to the store.
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
	// Reason is the error that caused the change, or nil.
	Reason error
	// Displaced reports that another session took over the published key Key,
	// or that the key was deleted. The Session itself goes on.
	Displaced bool
}

// State is the state of a Session or a Hold, as the session knows it.
type State uint8

const (
	// Held reports that the last renewal was confirmed.
	Held State = iota
	// Unknown reports that the last renewal failed and that the deadline counts
	// down. Holds are still Valid until the deadline.
	Unknown
	// Lost reports the final end.
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
