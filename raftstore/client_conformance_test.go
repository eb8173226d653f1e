package raftstore

import (
	"testing"

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/internal/testcluster/harness"
)

// TestConformanceOfClients runs the suite on clients without a data directory. As for
// clients of any other store, the nodes are other processes.
func TestConformanceOfClients(t *testing.T) {
	s := newClientSuite(t)
	na := map[string]string{
		"Outage/ReadOnly":   "reads need the quorum as much as writes do: there is no such state",
		"Rotate/OneRefuses": "a node that serves no client closes the connection, as in Rotate/Refused and Rotate/Reset: it refuses no single request that others serve",
		"Clock/Stepped":     "leases are counted by Go's monotonic clock, which no step of the wall clock moves; a linter rule forbids the use of the wall clock",
		"Identity/*":        identityNotApplicable,
		"Auth/*":            "clients prove themselves by certificate; there are no users, passwords or tokens",
		"Reply/MarkerLost":  "attempts have numbers in the replicated log instead of markers (P15); they go with it only",
	}
	if !s.Cluster.HasNetwork() {
		na["Rotate/Blackholed"] = "packets can be dropped only where root may make network namespaces"
	}
	conformance.Run(t, harness.New("raftstore, client", clientTiming, func(tb testing.TB) conformance.Store {
		s := s.fresh(tb)
		return conformance.Store{
			Open: s.open, OpenWith: s.openWith, URL: s.url, Requests: clientRequests, Inject: clientInject,
			Sockets: clientSockets, Secure: secureClient, Cluster: s.faults(),
		}
	}, na))
}
