package etcd3

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
)

// Calls that wait for a stream at a member's limit return an error that names the limit.
// They wrote nothing, and the member is not ejected.
func TestLimitOfStreams(t *testing.T) {
	t.Parallel()
	const streams = 3 // one each for the watch, the renewals and a call
	f := newFakeStore()
	addr := serve(t, func(g *grpc.Server) {
		f.register(g)
		pb.RegisterWatchServer(g, &pb.UnimplementedWatchServer{})
	}, grpc.MaxConcurrentStreams(streams))
	o := &observed{}
	b, store := f.clientAt(t, addr, Config{Observer: dcs.Observer{Endpoint: o.note}})
	_, err := store.Snapshot(shortly(t), "")
	require.NoError(t, err)
	c, err := b.connected(addr)
	require.NoError(t, err)
	held, release := context.WithCancel(t.Context())
	defer release()
	for range streams {
		_, err := c.lease.LeaseKeepAlive(held)
		require.NoError(t, err)
	}
	for name, call := range map[string]func(ctx context.Context) error{
		"Get":   func(ctx context.Context) error { _, err := b.Get(ctx, "k"); return err },
		"Grant": func(ctx context.Context) error { _, _, err := b.Grant(ctx, suiteTiming.TTL); return err },
		"Renew": func(ctx context.Context) error { _, err := (&lease{b, 7}).Renew(ctx, "k"); return err },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		err := call(ctx)
		cancel()
		require.ErrorIs(t, err, dcs.ErrUnavailable, name) // a Grant may be ambiguous
		require.ErrorContains(t, err, "--max-concurrent-streams", name)
		var own interface{ Local() bool }
		require.ErrorAs(t, err, &own, name) // the Store logs no outage
		require.True(t, own.Local(), name)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err = b.Wait(ctx, "", 1)
	require.Error(t, err)
	require.Zero(t, o.count(dcs.Ejected, ""), "%v", o.events)
	release()
	_, err = store.Snapshot(within(t, suiteTiming.RetryTimeout), "")
	require.NoError(t, err)
}

// Config.Slots is the number of Commits in flight.
func TestSlots(t *testing.T) {
	t.Parallel()
	b, err := New(Config{Endpoints: []string{testcluster.SilentServer(t)}, Root: "r", Timing: suiteTiming, Slots: 1, NoDiscovery: true})
	require.NoError(t, err)
	defer b.Close()
	testcluster.TestOneSlot(t, b)
}
