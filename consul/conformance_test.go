package consul

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/internal/testcluster/harness"
)

func TestConformance(t *testing.T) {
	s := newSuite(t)
	conformance.Run(t, harness.New("consul", suiteTiming, func(tb testing.TB) conformance.Store {
		s := s.fresh(tb)
		return conformance.Store{
			Open: s.open, OpenWith: s.openWith, URL: s.url, DropBookkeeping: s.dropBookkeeping,
			Requests: requests, Inject: inject, Sockets: sockets, Secure: secure, Cluster: s.faults(),
		}
	}, s.notApplicable()))
}

// The contract holds through one agent in front of the servers, which is the usual
// deployment. The sessions belong to the agent's node and need no permission on another.
func TestConformanceThroughAnAgent(t *testing.T) {
	if os.Getenv("HOLDFAST_PROFILE") != "slow" {
		t.Skip("runs in the slow profile only: it repeats the contract half of the suite")
	}
	s := newSuite(t)
	if s.Cluster == nil {
		t.Skip("the servers are the user's own")
	}
	addr, err := s.Cluster.ConsulAgent(t.Context())
	require.NoError(t, err)
	s.agent = addr
	na := conformance.Without("there is one agent only; TestConformance injects faults into the servers", "Cluster")
	na["Auth/*"], na["TLS/*"] = "covered by TestConformance", "covered by TestConformance"
	conformance.Run(t, harness.New("consul, one agent", suiteTiming, func(tb testing.TB) conformance.Store {
		s := s.fresh(tb)
		return conformance.Store{
			Open: s.open, OpenWith: s.openWith, URL: s.url, DropBookkeeping: s.dropBookkeeping,
			Requests: requests, Inject: inject, Sockets: sockets,
		}
	}, na))
}

func (s *suite) notApplicable() map[string]string {
	if s.Cluster == nil {
		return conformance.Without("the servers are the user's own, and tests must not disturb them", "Cluster")
	}
	out := map[string]string{
		"Clock/Stepped": "Consul counts sessions by Go's monotonic clock, which no step of the wall clock moves; a linter rule forbids the use of the wall clock",
	}
	if !s.Cluster.HasNetwork() {
		out["Rotate/Blackholed"] = "packets can be dropped only where root may make network namespaces"
		out["Rotate/AllReplaced"] = "a new server can take the old one's name, not its port"
		out["Rotate/HalfHealthy"] = "a server can be cut off from its peers only where root may make network namespaces"
	}
	return out
}
