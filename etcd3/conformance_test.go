package etcd3

import (
	"os"
	"testing"

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/internal/testcluster/harness"
)

func TestConformance(t *testing.T) {
	s := newSuite(t)
	name := "etcd3"
	if version := os.Getenv("HOLDFAST_ETCD_VERSION"); version != "" {
		name += ", " + version
	}
	conformance.Run(t, harness.New(name, suiteTiming, func(tb testing.TB) conformance.Store {
		s := s.fresh(tb)
		return conformance.Store{
			Open: s.open, OpenWith: s.openWith, URL: s.url, DropBookkeeping: s.dropBookkeeping,
			Requests: requests, Inject: inject, Sockets: sockets, Secure: secure, Cluster: s.faults(),
		}
	}, s.notApplicable()))
}

func (s *suite) notApplicable() map[string]string {
	out := map[string]string{"Clock/Stepped": "etcd counts leases by Go's monotonic clock, which no step of the wall clock moves; a linter rule forbids the use of the wall clock"}
	if s.Cluster == nil {
		return conformance.Without("the servers are the user's own, and tests must not disturb them", "Cluster")
	}
	if !s.Cluster.HasNetwork() {
		out["Rotate/Blackholed"] = "packets can be dropped only where root may make network namespaces"
	}
	return out
}
