package zookeeper

import (
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
)

// A server that closes new connections, as one at its limit does, is not ejected,
// and the error names the limit.
func TestClosedConnectionMayBeTheLimit(t *testing.T) {
	t.Parallel()
	var ejected atomic.Int64
	b, err := New(Config{Endpoints: []string{testcluster.ClosingServer(t)}, Root: "r", Timing: suiteTiming, Observer: dcs.Observer{Endpoint: func(ev dcs.EndpointEvent) {
		if ev.Change == dcs.Ejected {
			ejected.Add(1)
		}
	}}})
	require.NoError(t, err)
	defer b.Close()
	_, err = b.Get(budget(t), "k")
	require.ErrorIs(t, err, dcs.ErrUnavailable)
	require.ErrorContains(t, err, "maxClientCnxns")
	require.Zero(t, ejected.Load())
}

// 70 Sessions use one server with ZooKeeper's own limit of 60 connections from
// one address. Those within the limit keep their locks, the others get an error
// that names the limit, and the server is not ejected.
func TestLimitOfConnections(t *testing.T) {
	if os.Getenv("HOLDFAST_PROFILE") != "slow" {
		t.Skip("only in the slow profile, because the test starts servers of its own")
	}
	c := testcluster.New(t, testcluster.Options{Kind: testcluster.ZooKeeper, Flags: []string{"maxClientCnxns=60"}})
	var ejected atomic.Int64
	b, err := New(Config{Endpoints: c.Endpoints()[:1], Root: "limits", Timing: suiteTiming})
	require.NoError(t, err)
	store, err := dcs.New(b, dcs.Options{Timing: suiteTiming, Observer: dcs.Observer{Endpoint: func(ev dcs.EndpointEvent) {
		if ev.Change == dcs.Ejected {
			ejected.Add(1)
		}
	}}})
	require.NoError(t, err)
	defer store.Close()
	var mu sync.Mutex
	var holds []*dcs.Hold
	var failed []error
	var all sync.WaitGroup
	for i := range 70 {
		all.Go(func() {
			s, err := store.NewSession(budget(t), dcs.SessionOptions{})
			var h *dcs.Hold
			if err == nil {
				h, err = s.TryAcquire(budget(t), "lock-"+string(rune('0'+i/10))+string(rune('0'+i%10)), nil)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = append(failed, err)
				return
			}
			holds = append(holds, h)
		})
	}
	all.Wait()
	t.Logf("%d holds, %d failures", len(holds), len(failed))
	require.GreaterOrEqual(t, len(holds), 55)
	require.GreaterOrEqual(t, len(failed), 10)
	for _, err := range failed {
		require.ErrorContains(t, err, "maxClientCnxns")
	}
	<-time.After(2 * suiteTiming.TTL)
	for _, h := range holds {
		require.NoError(t, h.Confirm(budget(t)))
		require.True(t, h.Valid())
	}
	require.Zero(t, ejected.Load())
}
