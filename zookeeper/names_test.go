package zookeeper

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
)

func (f *fakeServer) aliased(t *testing.T) (*testcluster.Alias, Config) {
	t.Helper()
	alias := testcluster.NewAlias(t, f.addr)
	return alias, Config{
		Endpoints: []string{alias.Endpoint}, Resolver: alias.Names.Net(), Root: "r", Timing: suiteTiming,
		Tick: 2 * time.Second, MinTTL: 4 * time.Second, MaxTTL: time.Minute,
	}
}

// The first of a name's two addresses is frozen. Every call is answered by the
// second.
func TestNameWhoseFirstAddressIsFrozen(t *testing.T) {
	t.Parallel()
	alias, config := newFakeServer(t).aliased(t)
	alias.Proxies[0].Silent()
	b, err := New(config)
	require.NoError(t, err)
	defer b.Close()
	for i := range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), suiteTiming.RetryTimeout)
		_, err := b.Get(ctx, "k")
		cancel()
		require.ErrorIs(t, err, dcs.ErrNotFound, "call %d", i)
	}
}

// The name of a frozen server moves to another one. The connection to the
// frozen one is closed.
func TestNameOfAFrozenServerMoves(t *testing.T) {
	t.Parallel()
	alias, config := newFakeServer(t).aliased(t)
	alias.Has(0)
	b, err := New(config)
	require.NoError(t, err)
	defer b.Close()
	alias.TestMoves(t, 8*time.Second, func(ctx context.Context) error { _, err := b.Get(ctx, "k"); return err })
	require.Equal(t, []string{alias.Endpoint}, b.Endpoints())
}

// A server that is given twice is one endpoint.
func TestServerWithTwoAddressesIsOneEndpoint(t *testing.T) {
	t.Parallel()
	first, second := newFakeServer(t), newFakeServer(t)
	first.last, second.last = 1<<56, 2<<56
	first.put("/r/"+identityKey, []byte("x"))
	second.put("/r/"+identityKey, []byte("x"))
	alias, config := first.aliased(t)
	observer, merged := alias.Merged()
	config.Endpoints, config.Observer = []string{first.addr, alias.Endpoint, second.addr}, observer
	b, err := New(config)
	require.NoError(t, err)
	defer b.Close()
	require.Eventually(t, func() bool { return merged() && len(b.Endpoints()) == 2 }, time.Minute, time.Millisecond)
	require.ElementsMatch(t, []string{first.addr, second.addr}, b.Endpoints())
}

// The session of the markers, which no call moves, leaves a server that was ejected.
func TestMarkerSessionLeavesAnEjectedServer(t *testing.T) {
	t.Parallel()
	f := newFakeServer(t)
	alias, config := f.aliased(t)
	config.Timing = dcs.Timing{TTL: 4 * time.Second, LoopWait: time.Second, RetryTimeout: 1500 * time.Millisecond}
	b, err := New(config)
	require.NoError(t, err)
	defer b.Close()
	_, err = b.Get(budget(t), "k")
	require.ErrorIs(t, err, dcs.ErrNotFound)
	l, err := b.markerLease(budget(t), config.Timing.TTL)
	require.NoError(t, err)
	s := l.(*lease).s
	at := s.connected()
	for _, p := range alias.Proxies {
		if strings.HasSuffix(at, p.Addr()) {
			p.Silent()
		}
	}
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), config.Timing.RetryTimeout)
		defer cancel()
		_, _ = b.Get(ctx, "k")
		now := s.connected()
		return now != "" && now != at
	}, 6*time.Second, 10*time.Millisecond)
	require.NoError(t, s.ended())
}
