package consul

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/dcs"
)

// faults is the servers, for the suite's fault cases.
func (s *suite) faults() *conformance.Cluster {
	if s.cluster == nil {
		return nil
	}
	c := s.cluster.Faults()
	c.Outside = s.outside
	c.ReadOnly = func(tb testing.TB) func() {
		heal, err := s.cluster.ConsulReadOnly()
		require.NoError(tb, err)
		once := sync.OnceFunc(func() { require.NoError(tb, heal()) })
		tb.Cleanup(once)
		return once
	}
	c.Replace = func(tb testing.TB, i int) string {
		require.NoError(tb, s.cluster.Replace(context.Background(), i))
		return s.cluster.Endpoints()[i]
	}
	c.EndLease = func(tb testing.TB, id dcs.LeaseID) {
		_, err := s.admin(tb).Session().Destroy(string(id), nil)
		require.NoError(tb, err)
	}
	return c
}

// outside names the servers by address: their names are known in this process
// only.
func (s *suite) outside(testing.TB) string {
	var addrs []string
	for _, server := range s.cluster.Servers() {
		addrs = append(addrs, server.Proxy().Addr())
	}
	return fmt.Sprintf("consul://%s/%s?node=holdfast-suite&ttl=%v&loop_wait=%v&retry_timeout=%v", strings.Join(addrs, ","), s.root,
		suiteTiming.TTL, suiteTiming.LoopWait, suiteTiming.RetryTimeout)
}
