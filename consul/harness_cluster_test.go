package consul

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcluster/harness"
)

// faults controls the servers for the fault cases of the suite.
func (s *suite) faults() *conformance.Cluster {
	if s.Cluster == nil {
		return nil
	}
	c := harness.Faults(s.Cluster)
	c.ReadOnly = func(tb testing.TB) func() {
		heal, err := s.Cluster.ConsulReadOnly()
		require.NoError(tb, err)
		once := sync.OnceFunc(func() { require.NoError(tb, heal()) })
		tb.Cleanup(once)
		return once
	}
	c.Replace = func(tb testing.TB, i int) string {
		require.NoError(tb, s.Cluster.Replace(context.Background(), i))
		return s.Cluster.Endpoints()[i]
	}
	wipe := c.Wipe
	c.Wipe = func(tb testing.TB) {
		wipe(tb)
		s.registerNode(tb)
	}
	c.EndLease = func(tb testing.TB, id dcs.LeaseID) {
		_, err := s.admin(tb).Session().Destroy(string(id), nil)
		require.NoError(tb, err)
	}
	return c
}
