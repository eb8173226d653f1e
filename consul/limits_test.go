package consul

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
)

// With Consul's own limit of 200 connections from one address, 30 Stores at one
// agent that use all of theirs: no lock is lost, what fails names the limit, and
// no agent is ejected.
func TestLimitOfConnections(t *testing.T) {
	if os.Getenv("HOLDFAST_PROFILE") != "slow" {
		t.Skip("in the slow profile: it starts servers of its own")
	}
	c := testcluster.New(t, testcluster.Options{Kind: testcluster.Consul, Flags: []string{"-hcl", "limits { http_max_conns_per_client = 200 }"}})
	var ejected atomic.Int64
	var holds []*dcs.Hold
	var stores []*dcs.Store
	for i := range 30 {
		b, err := New(Config{Endpoints: c.Endpoints()[:1], Root: "limits", Node: "limits", Timing: suiteTiming, MinTTL: time.Second})
		require.NoError(t, err)
		store, err := dcs.New(b, dcs.Options{Timing: suiteTiming, Observer: dcs.Observer{Endpoint: func(ev dcs.EndpointEvent) {
			if ev.Change == dcs.Ejected {
				t.Log(ev)
				ejected.Add(1)
			}
		}}})
		require.NoError(t, err)
		defer store.Close()
		stores = append(stores, store)
		s, err := store.NewSession(t.Context(), dcs.SessionOptions{})
		require.NoError(t, err)
		h, err := s.TryAcquire(budget(t), fmt.Sprint("lock-", i), nil)
		require.NoError(t, err)
		holds = append(holds, h)
	}
	var all sync.WaitGroup
	var failed atomic.Int64
	for _, store := range stores {
		all.Go(func() {
			s, err := store.Snapshot(budget(t), "")
			if err == nil {
				_, _ = store.Wait(budget(t), "", s.Revision) // for the connection of the watch
			}
		})
		for range mostConns {
			all.Go(func() {
				for range 100 {
					if _, err := store.Snapshot(budget(t), ""); err != nil {
						failed.Add(1)
						t.Log(err)
					}
				}
			})
		}
	}
	all.Wait()
	t.Logf("%d of %d calls failed", failed.Load(), 30*mostConns*100)
	for _, h := range holds {
		require.True(t, h.Valid())
		require.NoError(t, h.Confirm(budget(t)))
	}
	require.Zero(t, ejected.Load())
	require.Zero(t, failed.Load(), "a Store that has a connection is served")
}
