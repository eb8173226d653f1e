package consul

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/internal/testcluster"
)

// If the first of the two addresses of a name is frozen, the second one answers every
// call.
func TestNameWhoseFirstAddressIsFrozen(t *testing.T) {
	t.Parallel()
	alias := testcluster.NewAlias(t, newFake(t).addr())
	alias.Proxies[0].Silent()
	b := fakeClient(t, func(c *Config) { c.Endpoints, c.Resolver = []string{alias.Endpoint}, alias.Names.Net() })
	for i := range 6 {
		ctx, cancel := context.WithTimeout(t.Context(), suiteTiming.RetryTimeout)
		_, err := b.Snapshot(ctx, "k")
		cancel()
		require.NoError(t, err, "call %d", i)
	}
}

// If the name of a frozen server moves to another server, the connections to the
// frozen one are given up.
func TestNameOfAFrozenServerMoves(t *testing.T) {
	t.Parallel()
	alias := testcluster.NewAlias(t, newFake(t).addr())
	alias.Has(0)
	b := fakeClient(t, func(c *Config) { c.Endpoints, c.Resolver = []string{alias.Endpoint}, alias.Names.Net() })
	read := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		_, err := b.Snapshot(ctx, "k")
		return err
	}
	require.NoError(t, read())
	alias.Proxies[0].Silent()
	for range 3 {
		require.Error(t, read())
	}
	alias.Has(1)
	require.Eventually(t, func() bool { return read() == nil }, 8*time.Second, time.Millisecond, "the calls must move away from the frozen server")
	require.Equal(t, []string{alias.Endpoint}, b.Endpoints())
}

// An agent that is configured with two addresses is one endpoint.
func TestAgentWithTwoAddressesIsOneEndpoint(t *testing.T) {
	t.Parallel()
	first, second := newFake(t), newFake(t)
	for id, agent := range map[string]*fakeAgent{"1": first, "2": second} {
		agent.serve = func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Consul-Index", "7")
			if r.URL.Path != "/v1/agent/self" {
				_, _ = w.Write([]byte("[]"))
				return
			}
			_ = json.NewEncoder(w).Encode(map[string]any{"Config": map[string]string{"NodeID": id}})
		}
	}
	alias := testcluster.NewAlias(t, first.addr())
	b := fakeClient(t, func(c *Config) {
		c.Endpoints, c.Resolver = []string{first.addr(), alias.Endpoint, second.addr()}, alias.Names.Net()
	})
	require.Eventually(t, func() bool { return len(b.Endpoints()) == 2 }, 5*time.Second, time.Millisecond)
	require.ElementsMatch(t, []string{first.addr(), second.addr()}, b.Endpoints())
}
