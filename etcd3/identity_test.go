package etcd3

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
)

// If one server belongs to another cluster, every client chooses the cluster of most
// endpoints, for any place of the other server in the list and any order of the answers.
func TestMostEndpointsDecideTheCluster(t *testing.T) {
	own, other := newFakeStore(), newFakeStore()
	other.cluster = 2
	first, second, foreign := serve(t, own.register), serve(t, own.register), serve(t, other.register)
	list := []string{foreign, first, second}
	for n := range 12 {
		ejection := testcluster.NewEjection(foreign)
		b, err := New(Config{
			Endpoints: append(list[n%3:len(list):len(list)], list[:n%3]...), Root: "t", NoDiscovery: true, Timing: suiteTiming,
			Observer: ejection.Observer(),
		})
		require.NoError(t, err)
		store, err := dcs.New(b, dcs.Options{Timing: suiteTiming})
		require.NoError(t, err)
		for range 5 {
			s := newSession(t, store)
			h, err := s.TryAcquire(t.Context(), "leader", nil)
			require.NoError(t, err)
			require.NotNil(t, own.key("leader"))
			require.NoError(t, h.Release(t.Context()))
			require.NoError(t, s.Close(t.Context()))
		}
		ejection.Await(t)
		require.NoError(t, store.Close())
	}
	require.EqualValues(t, 1, other.rev, "nothing was written to the other cluster")
	require.Zero(t, other.leaseCount())
}

// If one of the two addresses of a name belongs to another cluster, only that address is
// ejected. The name has no vote.
func TestAddressInAnotherClusterIsEjected(t *testing.T) {
	t.Parallel()
	own, other := newFakeStore(), newFakeStore()
	other.cluster = 2
	alias := testcluster.NewAlias(t, serve(t, own.register))
	alias.Proxies[1].Retarget(serve(t, other.register))
	ejection := testcluster.NewEjection(alias.Address(1))
	b, store := own.clientAt(t, alias.Endpoint, Config{
		Endpoints: []string{serve(t, own.register), serve(t, own.register)},
		Resolver:  alias.Names.Net(), Observer: ejection.Observer(),
	})
	ejection.Await(t)
	_, err := store.Get(t.Context(), "k")
	require.ErrorIs(t, err, dcs.ErrNotFound)
	require.Equal(t, "1", b.ident.ID())
}

// If no cluster has most endpoints, no call succeeds and the error names both clusters.
func TestSplitEndpointsAreRefused(t *testing.T) {
	own, other := newFakeStore(), newFakeStore()
	other.cluster = 2
	a, z := serve(t, own.register), serve(t, other.register)
	b, err := New(Config{Endpoints: []string{a, z}, Root: "t", NoDiscovery: true, Timing: suiteTiming})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err = b.Get(ctx, "k")
	require.Equal(t, dcs.ErrUnavailable, dcs.KindOf(err), "%v", err)
	for _, part := range []string{a + " to store 1", z + " to store 2"} {
		require.ErrorContains(t, err, part)
	}
}

// restore replaces the data of the server by an empty backup, in a cluster with that id.
func (f *fakeStore) restore(cluster uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cluster = cluster
	f.rev, f.keys, f.leases = 1, map[string]*mvccpb.KeyValue{}, map[int64]int64{}
}

// A store that was restored from an older backup, or rebuilt under another cluster id, is
// detected within the budget. One log line and the error of each call report it. Few
// requests are sent, the Holds end, and a Store that is opened again works.
func TestRestoredStoreIsReported(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		cluster   uint64
		says, log string
		perSecond float64 // requests, after the first ten
	}{
		"from a backup":      {1, "restored from an older backup, or wiped", "the store has lost data", 0},
		"as another cluster": {2, "reopen the Store if the store was replaced", "the endpoints do not identify the store", 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const budget = 2 * time.Second
			f := newFakeStore()
			var requests atomic.Int64
			var log bytes.Buffer
			open := countingClient(t, f, dcs.Timing{TTL: 6 * time.Second, LoopWait: time.Second, RetryTimeout: budget}, &requests, &log)
			store := open()
			s := newSession(t, store)
			h, err := s.TryAcquire(t.Context(), "leader", nil)
			require.NoError(t, err)
			for range 20 {
				require.NoError(t, h.Update(t.Context(), []byte("v")))
			}
			_, err = store.Snapshot(t.Context(), "")
			require.NoError(t, err)

			f.restore(row.cluster)
			requests.Store(0)
			begin := time.Now()
			_, err = store.Snapshot(t.Context(), "")
			require.LessOrEqual(t, time.Since(begin), budget+time.Second)
			require.Equal(t, dcs.ErrUnavailable, dcs.KindOf(err), "%v", err)
			require.ErrorContains(t, err, row.says)
			for time.Since(begin) < 2*budget {
				_, err = store.Snapshot(t.Context(), "")
				require.ErrorContains(t, err, "reopen the Store")
				_, err = store.Commit(t.Context(), dcs.Txn{Then: []dcs.Write{{Key: "k"}}})
				require.ErrorContains(t, err, "reopen the Store")
				time.Sleep(time.Millisecond)
			}
			<-h.Done()
			require.ErrorContains(t, h.Err(), "reopen the Store")
			require.LessOrEqual(t, float64(requests.Load()), 10+row.perSecond*time.Since(begin).Seconds())
			require.NoError(t, store.Close())
			require.Equal(t, 1, strings.Count(log.String(), row.log), log.String())

			store = open()
			s = newSession(t, store)
			_, err = s.TryAcquire(t.Context(), "leader", nil)
			require.NoError(t, err)
			require.NoError(t, store.Close())
		})
	}
}

// countingClient returns a function that opens a Store on three members of f, which count
// their requests.
func countingClient(t *testing.T, f *fakeStore, timing dcs.Timing, requests *atomic.Int64, log *bytes.Buffer) func() *dcs.Store {
	t.Helper()
	count := grpc.UnaryInterceptor(func(ctx context.Context, r any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
		requests.Add(1)
		return h(ctx, r)
	})
	streams := grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
		requests.Add(1)
		return h(srv, s)
	})
	addrs := []string{serve(t, f.register, count, streams), serve(t, f.register, count, streams), serve(t, f.register, count, streams)}
	return func() *dcs.Store {
		b, err := New(Config{Endpoints: addrs, Root: "t", NoDiscovery: true, Timing: timing, Logger: slog.New(slog.NewTextHandler(log, nil))})
		require.NoError(t, err)
		store, err := dcs.New(b, dcs.Options{Timing: timing})
		require.NoError(t, err)
		return store
	}
}
