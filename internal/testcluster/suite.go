package testcluster

import (
	"context"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance"
)

// Faults is what the conformance suite may do to the servers of any kind. A
// kind's own harness adds what only it knows.
func (c *Cluster) Faults() *conformance.Cluster {
	return &conformance.Cluster{
		Endpoints:  slices.Clone(c.Endpoints()),
		Election:   c.Election(),
		Leader:     func(testing.TB) int { return c.Leader(context.Background()) },
		Healthy:    func(tb testing.TB) { require.NoError(tb, c.Healthy(context.Background())) },
		RestartAll: func(tb testing.TB) { require.NoError(tb, c.RestartAll(context.Background())) },
		Strike:     c.strike,
	}
}

// retirer is a kind whose operators do something before they stop a server.
type retirer interface {
	retire(c *Cluster, s *Server) error
}

func (c *Cluster) strike(tb testing.TB, i int, t conformance.Trouble) (heal func()) {
	server := c.Servers()[i]
	must := func(err error) { require.NoError(tb, err, "%v", t.Do) }
	switch t.Do {
	case conformance.Killed:
		server.Kill()
		return func() { must(server.Restart()) }
	case conformance.Stopped:
		if r, ok := c.drv.(retirer); ok {
			must(r.retire(c, server))
		}
		server.Stop()
		return func() { must(server.Restart()) }
	case conformance.Frozen:
		thaw, err := server.Process().Freeze()
		must(err)
		return thaw
	case conformance.Refused:
		lift := server.Proxy().Refuse()
		return func() { must(lift()) }
	case conformance.Silent:
		return server.Proxy().Silent()
	case conformance.ResetAll:
		return server.Proxy().Reset()
	case conformance.Delayed:
		return server.Proxy().Delay(t.Delay)
	case conformance.Unresolved:
		return server.Unresolve()
	case conformance.Blackholed:
		lift, err := c.Blackhole(i)
		must(err)
		return func() { must(lift()) }
	case conformance.Partitioned:
		lift, err := c.Partition(i)
		must(err)
		return func() { must(lift()) }
	}
	tb.Fatalf("%v: no such fault", t.Do)
	return nil
}
