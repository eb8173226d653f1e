package dcs

import "time"

// Observer is a set of optional callbacks over everything a Store, its
// sessions and its backend do; nil means off. Callbacks must not block and may
// be called from several goroutines at once. Events are structs, so that they
// can grow.
type Observer struct {
	// Call is told of every finished call.
	Call func(CallEvent)
	// Endpoint is told of every switch from one server to another.
	Endpoint func(EndpointEvent)
	// Renewal is told of every finished renewal of a session.
	Renewal func(RenewalEvent)
	// State is told of every change of a Session's or Hold's state.
	State func(StateEvent)
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

// EndpointEvent is one switch of the server in use, with the reason in words.
type EndpointEvent struct {
	Backend  string
	From, To string
	Reason   string
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
	// Displaced says that another session took over the published key Key;
	// the Session itself goes on.
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
