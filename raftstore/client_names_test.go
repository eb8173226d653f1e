package raftstore

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
)

// A name has two addresses. The first is frozen, and every call is answered by the
// second. When the second one freezes as well and the name gets a healthy address, that
// one is used.
func TestClientNameWithAFrozenAddress(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t, 1, nil)
	tc.leader()
	alias := testcluster.NewAlias(t, tc.config[0].Peers[0].Addr)
	thaw := alias.Proxies[0].Silent()
	c := tc.client(func(c *ClientConfig) {
		c.Endpoints, c.Resolver, c.NoDiscovery = []string{alias.Endpoint}, alias.Names.Net(), true
	})
	get := func(limit time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		_, err := c.Get(ctx, "k")
		return err
	}
	for i := range 8 {
		require.ErrorIs(t, get(c.config.Timing.RetryTimeout), dcs.ErrNotFound, "call %d", i)
	}
	alias.Proxies[1].Silent()
	thaw()
	alias.Has(0)
	require.Eventually(t, func() bool { return dcs.KindOf(get(time.Second)) == dcs.ErrNotFound }, 8*time.Second, time.Millisecond)
}

// Calls in progress on a dropped connection end by themselves, and the connection ends
// after them.
func TestClientDropsConnections(t *testing.T) {
	tc := newTestCluster(t, 1, nil)
	tc.leader()
	c := tc.client()
	_, err := c.Get(testCtx(t), "k")
	require.ErrorIs(t, err, dcs.ErrNotFound)
	addr := c.Endpoints()[0]
	require.Len(t, c.conns.Conns(), 1)
	c.conns.Drop(addr, time.Second/4)
	require.False(t, c.conns.IsConnected(addr))
	require.Len(t, c.conns.Conns(), 1)
	_, err = c.Get(testCtx(t), "k")
	require.ErrorIs(t, err, dcs.ErrNotFound)
	require.Len(t, c.conns.Conns(), 2)
	require.Eventually(t, func() bool { return len(c.conns.Conns()) == 1 }, 5*time.Second, time.Millisecond)
	require.True(t, c.conns.IsConnected(addr))
}
