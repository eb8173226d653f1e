package raftstore

import (
	"testing"

	"github.com/holdfast-dcs/holdfast/conformance"
)

func TestConformance(t *testing.T) {
	s := newSuite(t)
	na := conformance.WithoutCluster("the suite's nodes live in this process: they cannot be struck one by one; examples/failover shows kill -9 and freeze with processes")
	na["Auth/*"] = "nodes prove themselves by certificate; there are no users, passwords or tokens"
	na["Reply/MarkerLost"] = "attempts have numbers in the replicated log instead of markers (P15); they go with it only"
	conformance.Run(t, conformance.Harness{
		Name:   "raftstore",
		Timing: suiteTiming,
		New: func(testing.TB) conformance.Store {
			return conformance.Store{
				Open: s.open, OpenAlone: openAlone, OpenWith: s.openWith,
				Requests: s.requests, Inject: s.inject, Sockets: sockets, Secure: s.secure.open,
			}
		},
		NotApplicable: na,
		// The nodes live as long as the test, and their connections come and go.
		Ours: []string{"holdfast/raftstore.", "hashicorp/raft"},
	})
}
