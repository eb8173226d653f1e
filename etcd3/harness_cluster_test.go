package etcd3

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcluster/harness"
)

// faults controls the servers for the fault cases of the suite.
func (s *suite) faults() *conformance.Cluster {
	if s.Cluster == nil {
		return nil
	}
	c := harness.Faults(s.Cluster)
	strike := c.InjectFault
	c.InjectFault = func(tb testing.TB, i int, t conformance.ServerFault) func() {
		if t.Do == conformance.Partitioned && !s.Cluster.HasNetwork() {
			return s.standIn(tb, i)
		}
		return strike(tb, i, t)
	}
	c.ReadOnly, c.EndLease = s.readOnly, s.endLease
	c.Refusals = map[string]func(testing.TB, int) func(){
		"denied": s.refuse(rpctypes.ErrGRPCPermissionDenied), "too many requests": s.refuse(rpctypes.ErrGRPCRequestTooManyRequests),
	}
	c.Replace = func(tb testing.TB, i int) string {
		require.NoError(tb, s.Cluster.Replace(context.Background(), i))
		s.Endpoints = s.Cluster.Endpoints()
		return s.Endpoints[i]
	}
	return c
}

// refuse makes a server refuse all requests with an error. Its streams end.
func (s *suite) refuse(answer error) func(tb testing.TB, i int) (restore func()) {
	return func(_ testing.TB, i int) func() {
		at := s.Endpoints[i]
		s.refusing.Store(at, answer)
		s.Cluster.Servers()[i].Proxy().Reset()()
		return func() { s.refusing.Delete(at) }
	}
}

// standIn replaces a member by one that answers like a member that is cut off from its
// peers. It is used where no network namespaces can be made.
func (s *suite) standIn(tb testing.TB, i int) (heal func()) {
	server := s.Cluster.Servers()[i]
	var header *pb.ResponseHeader
	s.byHand(tb, func(ctx context.Context, cc *grpc.ClientConn) error {
		status, err := pb.NewMaintenanceClient(cc).Status(ctx, &pb.StatusRequest{})
		header = status.GetHeader()
		return err
	})
	server.Proxy().Retarget(newStandIn(tb, header))
	return func() { server.Proxy().Retarget(server.Direct()) }
}

// readOnly raises the NOSPACE alarm, which etcd raises when it runs out of space.
func (s *suite) readOnly(tb testing.TB) (heal func()) {
	var member uint64
	alarm := func(do pb.AlarmRequest_AlarmAction) {
		s.byHand(tb, func(ctx context.Context, cc *grpc.ClientConn) error {
			r, err := pb.NewMaintenanceClient(cc).Alarm(ctx, &pb.AlarmRequest{Action: do, MemberID: member, Alarm: pb.AlarmType_NOSPACE})
			member = r.GetHeader().GetMemberId()
			return err
		})
	}
	alarm(pb.AlarmRequest_GET)
	alarm(pb.AlarmRequest_ACTIVATE)
	heal = sync.OnceFunc(func() { alarm(pb.AlarmRequest_DEACTIVATE) })
	tb.Cleanup(heal)
	return heal
}

func (s *suite) endLease(tb testing.TB, id dcs.LeaseID) {
	s.byHand(tb, func(ctx context.Context, cc *grpc.ClientConn) error {
		_, err := pb.NewLeaseClient(cc).LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: leaseNumber(id)})
		return err
	})
}
