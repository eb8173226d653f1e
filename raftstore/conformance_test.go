package raftstore

import (
	"testing"

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/dcs"
)

// identityNotApplicable is the reason for the cases of another store's servers and of
// lost data.
const identityNotApplicable = "a connection begins with the cluster's name and its incarnation (decisions 0019 and 0023), and the tests of both are in this package"

func TestConformance(t *testing.T) {
	s := newSuite(t)
	p := newProcesses(t)
	na := map[string]string{}
	na["Rotate/*"] = "every client is a node of its own; rotation comes with the client that has none"
	na["Outage/ReadOnly"] = "reads need the quorum as much as writes do: there is no such state"
	na["Holder/StaleConfirmation"] = "the case gives each client servers of its own, and here a client is a node; quorum_check_pause_test.go tests the same for the evidence"
	na["Clock/Stepped"] = "leases are counted by Go's monotonic clock, which no step of the wall clock moves; a linter rule forbids the use of the wall clock"
	na["Auth/*"] = "nodes prove themselves by certificate; there are no users, passwords or tokens"
	na["Identity/*"] = identityNotApplicable
	na["Reply/MarkerLost"] = "attempts have numbers in the replicated log instead of markers (P15); they go with it only"
	conformance.Run(t, conformance.Harness{
		Name:   "raftstore",
		Timing: suiteTiming,
		New: func(testing.TB) conformance.Store {
			return conformance.Store{
				Open: s.open, OpenAlone: openAlone, URL: p.url, Cluster: p.faults(),
				OpenWith: func(tb testing.TB, o conformance.Opening) (dcs.Backend, error) {
					if o.Timing != suiteTiming && o.Timing != (dcs.Timing{}) {
						return s.openWith(tb, o)
					}
					if len(o.Faults) > 0 {
						return s.openFaulty(tb, o.Faults), nil
					}
					return p.open(tb), nil
				},
				Requests: requests, Inject: inject, Sockets: sockets, Secure: s.secure.open,
			}
		},
		NotApplicable: na,
		// The nodes live as long as the test, and their connections come and go.
		Ours: []string{"holdfast/raftstore", "hashicorp/raft", "conformance/fault.StartProcess"},
	})
}
