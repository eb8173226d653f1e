package etcd3

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
	"github.com/holdfast-dcs/holdfast/internal/testcluster/harness"
)

// Where no packets can be dropped, a stand-in replaces the half-healthy member. The
// client ejects it like the real one.
func TestStandInIsLeft(t *testing.T) {
	c := testcluster.New(t, testcluster.Options{Kind: testcluster.Etcd, Loopback: true})
	s := (&suite{Env: harness.Env{Cluster: c}}).fresh(t)
	b, err := New(Config{Endpoints: s.Endpoints, Root: s.Root, Timing: suiteTiming})
	require.NoError(t, err)
	defer b.Close()
	store, err := dcs.New(b, dcs.Options{Timing: suiteTiming})
	require.NoError(t, err)
	session, err := store.NewSession(t.Context(), dcs.SessionOptions{})
	require.NoError(t, err)
	hold, err := session.Acquire(t.Context(), "standin", nil)
	require.NoError(t, err)
	used := b.Endpoints()[0]
	for i, e := range s.Endpoints {
		if e == used {
			defer s.standIn(t, i)()
		}
	}
	var slowest time.Duration
	for began := time.Now(); time.Since(began) < 4500*time.Millisecond; {
		begin := time.Now()
		require.NoError(t, hold.Confirm(t.Context()))
		_, err := store.Commit(t.Context(), dcs.Txn{Then: []dcs.Write{dcs.Put("standin-k", nil)}})
		require.NoError(t, err)
		slowest = max(slowest, time.Since(begin))
	}
	require.NotEqual(t, used, b.Endpoints()[0])
	require.Less(t, slowest, time.Second)
}

// The stand-in answers like a real member that is cut off.
func TestStandInAnswersAsTheRealOne(t *testing.T) {
	s := newSuite(t)
	if s.Cluster == nil || !s.Cluster.HasNetwork() {
		t.Skip("packets can be dropped only where root may make network namespaces")
	}
	var head *pb.ResponseHeader
	s.byHand(t, func(ctx context.Context, cc *grpc.ClientConn) error {
		r, err := pb.NewMaintenanceClient(cc).Status(ctx, &pb.StatusRequest{})
		head = r.GetHeader()
		return err
	})
	addrs := map[string]string{"stand-in": newStandIn(t, head), "real": s.Cluster.Servers()[1].Direct()}
	heal, err := s.Cluster.Partition(1)
	require.NoError(t, err)
	defer func() {
		require.NoError(t, heal())
		require.NoError(t, s.Cluster.Healthy(context.Background()))
	}()
	for name, addr := range addrs {
		t.Run(name, func(t *testing.T) {
			cc, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
			require.NoError(t, err)
			defer cc.Close()
			ctx := metadata.AppendToOutgoingContext(t.Context(), "hasleader", "true")
			calls := map[string]func(ctx context.Context) error{
				"Range": func(ctx context.Context) error {
					_, err := pb.NewKVClient(cc).Range(ctx, &pb.RangeRequest{Key: []byte("k")})
					return err
				},
				"Txn": func(ctx context.Context) error {
					// One without a write is answered as long as the member knows a leader.
					put := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("k")}}}
					_, err := pb.NewKVClient(cc).Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{put}})
					return err
				},
				"Grant": func(ctx context.Context) error {
					_, err := pb.NewLeaseClient(cc).LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 5})
					return err
				},
			}
			for what, call := range calls {
				// At first there is no answer, and later "no leader" at once.
				require.Eventually(t, func() bool {
					short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
					defer cancel()
					err := call(short)
					require.Error(t, err, what)
					return text(err) == text(errNoLeader)
				}, 8*time.Second, 50*time.Millisecond, what)
			}
			_, err = pb.NewMaintenanceClient(cc).Status(ctx, &pb.StatusRequest{})
			require.ErrorContains(t, err, "no leader")
			_, err = pb.NewKVClient(cc).Range(t.Context(), &pb.RangeRequest{Key: []byte("k"), Serializable: true})
			require.NoError(t, err, "a serializable read must get a stale answer")
			status, err := pb.NewMaintenanceClient(cc).Status(t.Context(), &pb.StatusRequest{})
			require.NoError(t, err)
			require.Zero(t, status.Leader)
			require.Contains(t, status.Errors, "etcdserver: no leader")
		})
	}
}
