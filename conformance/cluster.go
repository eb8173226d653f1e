package conformance

import (
	"log/slog"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Opening is what [Store.OpenWith] is asked for. Zero fields leave what
// [Store.Open] would use.
type Opening struct {
	// Timing is the client's.
	Timing dcs.Timing
	// Logger and Observer are told what the client logs and decides.
	Logger   *slog.Logger
	Observer dcs.Observer
	// Endpoints are the servers that the client is told of: some of
	// [Cluster.Endpoints]. Nil means all.
	Endpoints []string
	// Faults are in force from the client's first request on, those that the
	// opening itself sends included, until the client is closed. A harness
	// that has [Store.Inject] must do that.
	Faults []Fault
	// Wait asks the opening to wait for a store that does not answer yet,
	// until tb's context ends, instead of failing when its budget is spent.
	Wait bool
}

// Cluster is the servers behind a [Store], as the fault cases drive them. The
// cases strike one server after the other and restore what they struck; no other
// case runs at the same time. Required are Endpoints, InjectFault and Healthy.
type Cluster struct {
	// Endpoints names the servers as the errors and events of clients do, in
	// an order that stays. Faults are told the index.
	Endpoints []string

	// Election is E: the longest that the store needs to serve again when the
	// server that leads it stops serving, as the store's own settings have it.
	Election time.Duration

	// Leader returns the index of the server that leads the store, or -1
	// where that is nobody, or no matter to clients.
	Leader func(tb testing.TB) int

	// InjectFault puts server i out of order as t says, until restore. It returns when
	// the fault is in force; restore when it is lifted (Healthy waits until the
	// server serves again). restore may be called twice. A ServerFault that the
	// servers cannot have fails tb; the harness declares the cases that ask
	// for it as NotApplicable.
	InjectFault func(tb testing.TB, i int, t ServerFault) (restore func())

	// Healthy returns when every server serves and all follow one leader.
	Healthy func(tb testing.TB)

	// ReadOnly makes the store answer reads and refuse or ignore writes,
	// renewals among them where they are writes, until restore.
	ReadOnly func(tb testing.TB) (restore func())

	// RestartAll kills every server at once, as a power cut does, and starts
	// them again. It returns when all serve.
	RestartAll func(tb testing.TB)

	// Replace replaces server i by a new one with a new address and no data,
	// which joins the store, and returns the new address. The harness puts
	// the cluster back when the case ends.
	Replace func(tb testing.TB, i int) (endpoint string)

	// EndLease ends a lease as somebody who does not hold it.
	EndLease func(tb testing.TB, id dcs.LeaseID)

	// StepClock moves the wall clocks of all servers.
	StepClock func(tb testing.TB, by time.Duration)
}

// ServerFault is a fault of one server.
type ServerFault struct {
	Do ServerFaultVerb
	// Delay is how much later every answer comes, for Delayed.
	Delay time.Duration
}

// ServerFaultVerb is what happens to a server.
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
	// Refused: connections to it are refused, and those there are, are reset.
	// Its peers still reach it.
	Refused
	// Blackholed: what clients send to it, or it to clients, is dropped. Its
	// peers still reach it.
	Blackholed
	// Silent: it accepts connections and never answers. Its peers still reach
	// it.
	Silent
	// ResetAll: every connection to it is reset as soon as it sends anything.
	ResetAll
	// Delayed: every answer to clients comes later by ServerFault.Delay.
	Delayed
	// Partitioned: cut off from its peers, and reachable for clients.
	Partitioned
	// Unresolved: its name cannot be resolved any more; connections there are,
	// are reset.
	Unresolved
)

// String returns the verb in lower case.
func (v ServerFaultVerb) String() string {
	return [...]string{
		"killed", "stopped", "frozen", "refused", "blackholed", "silent",
		"reset", "delayed", "partitioned", "unresolved",
	}[v]
}

// WithoutCluster declares, for [Harness.NotApplicable], the cases that need a
// [Store.Cluster], all for the same reason.
func WithoutCluster(why string) map[string]string {
	out := map[string]string{}
	for _, c := range append(append([]spec(nil), rotateCases...), outageCases...) {
		if c.Name != "Holder/LinkLostBeforeFirstRenewal" { // it needs Inject only
			out[c.Name] = why
		}
	}
	return out
}
