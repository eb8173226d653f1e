package zookeeper

import (
	"testing"

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
	"github.com/holdfast-dcs/holdfast/internal/testcluster/harness"
)

func TestConformance(t *testing.T) {
	s := newSuite(t)
	conformance.Run(t, harness.New("zookeeper", suiteTiming, func(tb testing.TB) conformance.Store {
		s := s.fresh(tb)
		return conformance.Store{
			Open: s.open, OpenWith: s.openWith, URL: s.url, DropBookkeeping: s.dropBookkeeping,
			Requests: requests, Inject: inject, Sockets: sockets, Secure: secure, Cluster: s.faults(),
		}
	}, s.notApplicable()))
}

func (s *suite) notApplicable() map[string]string {
	out := map[string]string{ //nolint:gosec // G101: the names of cases
		"Lease/Rebind":               "a node stays its session's: Caps.Rebind is false",
		"Holder/ConfirmsKeepFailing": "a node stays its session's: Caps.Rebind is false",
		"Auth/TokenRenewed":          "digest credentials do not run out",
	}
	if s.Cluster == nil {
		for name, why := range conformance.Without("the servers are the user's own: nothing may be done to them", "Cluster") {
			out[name] = why
		}
		return out
	}
	if !testcluster.CanStepClocks() {
		out["Clock/Stepped"] = "the servers' clocks can be stepped only where there is a C compiler"
	}
	if !s.Cluster.HasNetwork() {
		out["Rotate/Blackholed"] = "packets can be dropped only where root may make network namespaces"
		out["Rotate/AllReplaced"] = "a new server can take the old one's name, not its port"
		out["Rotate/HalfHealthy"] = "a server can be cut off from its peers only where root may make network namespaces"
	}
	return out
}
