package consul

import (
	"context"
	"net/http"
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
	c.Refusals = map[string]func(testing.TB, int) func(){
		"an unknown token":  s.refuse(refusalAnswer{http.StatusForbidden, textACLNotFound}),
		"too many requests": s.refuse(refusalAnswer{http.StatusTooManyRequests, rateLimits[0]}),
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

// refuse makes a server refuse all requests with a response. Its blocking queries end.
func (s *suite) refuse(answer refusalAnswer) func(tb testing.TB, i int) (restore func()) {
	return func(_ testing.TB, i int) func() {
		at := s.Endpoints[i]
		s.refusing.Store(at, answer)
		s.Cluster.Servers()[i].Proxy().Reset()()
		return func() { s.refusing.Delete(at) }
	}
}
