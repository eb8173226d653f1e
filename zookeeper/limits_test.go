package zookeeper

import (
	"fmt"
	"os"
	"strings"
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

// The end of a lease needs a connection, which a server at its limit accepts when
// the lease's own one is closed.
func TestRevokeAtTheLimitOfConnections(t *testing.T) {
	t.Parallel()
	f := newFakeServer(t)
	b := f.client(t)
	l, _, err := b.Grant(budget(t), suiteTiming.TTL)
	require.NoError(t, err)
	other, _, err := b.Grant(budget(t), suiteTiming.TTL)
	require.NoError(t, err)
	f.mu.Lock()
	f.limit = len(f.conns)
	f.mu.Unlock()
	require.NoError(t, l.Revoke(budget(t)))
	_, err = other.Renew(budget(t))
	require.NoError(t, err)
	f.mu.Lock()
	defer f.mu.Unlock()
	require.Equal(t, 1, f.ended)
}

// 70 Sessions use one server with ZooKeeper's own limit of 60 connections from
// one address. Those within the limit lose nothing, the others get an error that
// names the limit, and the server is not ejected. When a Session within the limit
// ends, another one takes its place.
func TestLimitOfConnections(t *testing.T) {
	if os.Getenv("HOLDFAST_PROFILE") != "slow" {
		t.Skip("only in the slow profile, because the test starts servers of its own")
	}
	c := testcluster.New(t, testcluster.Options{Kind: testcluster.ZooKeeper, Flags: []string{"maxClientCnxns=60"}})
	var ejected, failures atomic.Int64
	b, err := New(Config{Endpoints: c.Endpoints()[:1], Root: "limits", Timing: suiteTiming, Observer: dcs.Observer{Endpoint: func(ev dcs.EndpointEvent) {
		if ev.Change == dcs.Ejected {
			ejected.Add(1)
		}
	}}})
	require.NoError(t, err)
	store, err := dcs.New(b, dcs.Options{Timing: suiteTiming, Observer: dcs.Observer{Renewal: func(ev dcs.RenewalEvent) {
		if ev.Err != nil {
			failures.Add(1)
		}
	}}})
	require.NoError(t, err)
	defer store.Close()
	seen, err := store.Wait(budget(t), "k", 0) // its watch has a connection of its own
	require.NoError(t, err)
	take := func(i int) (*dcs.Session, *dcs.Hold, error) {
		s, err := store.NewSession(budget(t), dcs.SessionOptions{})
		if err != nil {
			return nil, nil, err
		}
		h, err := s.TryAcquire(budget(t), fmt.Sprintf("lock-%02d", i), nil)
		return s, h, err
	}
	var mu sync.Mutex
	holds := map[*dcs.Session]*dcs.Hold{}
	var failed []error
	var all sync.WaitGroup
	opening := make(chan struct{}, 4)
	for i := range 70 {
		all.Go(func() {
			opening <- struct{}{}
			s, h, err := take(i)
			<-opening
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = append(failed, err)
				return
			}
			holds[s] = h
		})
	}
	all.Wait()
	t.Logf("%d holds, %d failures", len(holds), len(failed))
	require.GreaterOrEqual(t, len(holds), 55)
	require.GreaterOrEqual(t, len(failed), 10)
	named := 0
	for _, err := range failed {
		require.ErrorIs(t, err, dcs.ErrUnavailable)
		if strings.Contains(err.Error(), "maxClientCnxns") {
			named++
		}
	}
	require.Greater(t, named, len(failed)/2, "a server on a busy machine may be silent instead")

	// The calls of the Store go on, too, for as long as the Sessions.
	for began, i := time.Now(), 0; time.Since(began) < 2*suiteTiming.TTL; i++ {
		_, err := store.Commit(budget(t), dcs.Txn{Then: []dcs.Write{dcs.Put("k", fmt.Append(nil, i))}})
		require.NoError(t, err)
		seen, err = store.Wait(budget(t), "k", seen.Revision)
		require.NoError(t, err)
		require.Len(t, seen.Entries, 1)
		<-time.After(suiteTiming.LoopWait)
	}
	for s, h := range holds {
		require.NoError(t, h.Confirm(budget(t)))
		require.True(t, h.Valid())
		require.NoError(t, s.Err())
	}
	require.Zero(t, failures.Load(), "renewals")
	require.Zero(t, ejected.Load())
	for s := range holds {
		require.NoError(t, s.Close(budget(t)))
		break
	}
	require.Eventually(t, func() bool { _, _, err := take(70); return err == nil }, time.Minute, time.Millisecond)
}

// Config.Slots is the number of Commits in flight.
func TestSlots(t *testing.T) {
	t.Parallel()
	b, err := New(Config{Endpoints: []string{testcluster.SilentServer(t)}, Root: "r", Timing: suiteTiming, Slots: 1})
	require.NoError(t, err)
	defer b.Close()
	testcluster.TestOneSlot(t, b)
}
