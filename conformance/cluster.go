package conformance

import (
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Opening has the settings for [Store.OpenWith]. Zero fields mean the settings of
// [Store.Open].
type Opening struct {
	// Timing is the client's.
	Timing dcs.Timing
	// Logger and Observer receive the client's log and its decisions.
	Logger   *slog.Logger
	Observer dcs.Observer
	// Endpoints are the servers for the client, some of [Cluster.Endpoints]. Nil means
	// all.
	Endpoints []string
	// Resolver resolves the names of the servers. Nil means the resolver of the harness.
	Resolver *net.Resolver
	// Faults are in force from the client's first request on, including those that the
	// opening itself sends, until the client is closed. A harness with [Store.Inject] must
	// support them.
	Faults []Fault
	// Wait makes the opening wait for a store that does not answer yet, until tb's
	// context ends, instead of failing when its budget is spent.
	Wait bool
}

// Cluster controls the servers of a [Store] for the fault cases. The cases inject faults
// into one server after the other and restore it. No other case runs at the same time.
// Endpoints, Leader, InjectFault and Healthy are required.
type Cluster struct {
	// Endpoints has the names of the servers in the errors and events of clients. The
	// order must not change, because faults are injected by index.
	Endpoints []string

	// Election is E, the longest time that the store needs to serve again after its
	// leading server stops serving, by the store's own settings.
	Election time.Duration

	// Leader returns the index of the server that leads the store, or -1 if there is none
	// or if it does not matter to clients.
	Leader func(tb testing.TB) int

	// InjectFault injects the fault t into server i until restore is called. It must
	// return when the fault is in force, and restore when the fault is lifted (Healthy
	// waits until the server serves again). restore may be called twice. A fault that
	// the servers do not support must fail tb, and the harness must declare the cases
	// that need it as NotApplicable.
	InjectFault func(tb testing.TB, i int, t ServerFault) (restore func())

	// Healthy must return when every server serves and all follow one leader.
	Healthy func(tb testing.TB)

	// DeadAddresses returns a resolver under which the name of each server has two
	// addresses, and nothing answers at the first one. It must work until tb ends. Clients
	// take it as [Opening.Resolver]. Rotate/DeadAddress needs it.
	DeadAddresses func(tb testing.TB) *net.Resolver

	// Refusals have the answers, by their names, with which one server can refuse requests
	// that the others serve, such as a token that it does not know yet. Each function
	// makes server i refuse all requests of clients so, until restore. Rotate/OneRefuses
	// needs one.
	Refusals map[string]func(tb testing.TB, i int) (restore func())

	// ReadOnly makes the store answer reads and refuse or ignore writes, including
	// renewals if they are writes, until restore.
	ReadOnly func(tb testing.TB) (restore func())

	// RestartAll kills every server at once, as a power cut does, and starts them again.
	// It must return when all serve.
	RestartAll func(tb testing.TB)

	// Replace replaces server i by a new one with a new address and no data, which joins
	// the store, and returns the new address. The harness must restore the cluster when
	// the case ends.
	Replace func(tb testing.TB, i int) (endpoint string)

	// Foreign starts a server of another store, which has no data, and returns its
	// address. It must end with tb. Clients take it as one of [Opening.Endpoints].
	// Identity/ForeignServer needs it.
	Foreign func(tb testing.TB) (endpoint string)

	// Wipe removes all data of the store, bookkeeping among them, as an operator
	// does that sets it up again at the same addresses. It must return when all
	// servers serve. Identity/LostData needs it.
	Wipe func(tb testing.TB)

	// Backup takes a backup of the store, and returns a function that puts the store
	// back to that state. Both must return when all servers serve. The slow profile of
	// Identity/LostData needs it.
	Backup func(tb testing.TB) (restore func())

	// EndLease ends a lease as a client that does not hold it.
	EndLease func(tb testing.TB, id dcs.LeaseID)

	// StepClock moves the wall clocks of all servers.
	StepClock func(tb testing.TB, by time.Duration)
}

// A ServerFault is a fault of one server.
type ServerFault struct {
	Do ServerFaultVerb
	// Delay is the additional latency of every answer, for Delayed.
	Delay time.Duration
}

// ServerFaultVerb is the kind of a ServerFault.
type ServerFaultVerb uint8

// The faults of servers.
const (
	// Killed ends the server's process as kill -9 does; restore starts it again
	// with its data.
	Killed ServerFaultVerb = iota
	// Stopped ends the server in an orderly way; restore starts it again.
	Stopped
	// Frozen stops the server's process with SIGSTOP; restore thaws it.
	Frozen
	// Refused makes the server refuse connections, and resets existing ones. Its peers
	// still reach it.
	Refused
	// Blackholed drops all packets between the server and clients. Its peers still reach
	// it.
	Blackholed
	// Silent makes the server accept connections and never answer. Its peers still reach
	// it.
	Silent
	// ResetAll resets every connection to the server as soon as data is sent on it.
	ResetAll
	// Delayed delays every answer to clients by ServerFault.Delay.
	Delayed
	// Partitioned cuts the server off from its peers. Clients still reach it.
	Partitioned
	// Unresolved makes the resolution of the server's name fail, and resets existing
	// connections.
	Unresolved
)

// String returns the verb in lower case.
func (v ServerFaultVerb) String() string {
	return [...]string{
		"killed", "stopped", "frozen", "refused", "blackholed", "silent",
		"reset", "delayed", "partitioned", "unresolved",
	}[v]
}
