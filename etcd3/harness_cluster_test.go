package etcd3

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/dcs"
)

// faults is the servers, for the suite's fault cases.
func (s *suite) faults() *conformance.Cluster {
	if s.cluster == nil {
		return nil
	}
	return &conformance.Cluster{
		Endpoints: slices.Clone(s.cluster.Endpoints()),
		Election:  s.cluster.Election(),
		Leader:    func(tb testing.TB) int { return s.cluster.Leader(context.Background()) },
		Healthy:   func(tb testing.TB) { require.NoError(tb, s.cluster.Healthy(context.Background())) },
		Strike:    s.strike, ReadOnly: s.readOnly, EndLease: s.endLease, Outside: s.outside,
		RestartAll: func(tb testing.TB) { require.NoError(tb, s.cluster.RestartAll(context.Background())) },
		Replace: func(tb testing.TB, i int) string {
			require.NoError(tb, s.cluster.Replace(context.Background(), i))
			s.endpoints = s.cluster.Endpoints()
			s.endpoints = s.cluster.Endpoints()
			return s.endpoints[i]
		},
	}
}

func (s *suite) strike(tb testing.TB, i int, t conformance.Trouble) (heal func()) {
	server := s.cluster.Servers()[i]
	must := func(err error) { require.NoError(tb, err, "%v", t.Do) }
	switch t.Do {
	case conformance.Killed:
		server.Kill()
		return func() { must(server.Restart()) }
	case conformance.Stopped:
		server.Stop()
		return func() { must(server.Restart()) }
	case conformance.Frozen:
		thaw, err := server.Process().Freeze()
		must(err)
		return thaw
	case conformance.Refused:
		lift := server.Proxy().Refuse()
		return func() { must(lift()) }
	case conformance.Silent:
		return server.Proxy().Silent()
	case conformance.ResetAll:
		return server.Proxy().Reset()
	case conformance.Delayed:
		return server.Proxy().Delay(t.Delay)
	case conformance.Unresolved:
		return server.Unresolve()
	case conformance.Blackholed:
		lift, err := s.cluster.Blackhole(i)
		must(err)
		return func() { must(lift()) }
	case conformance.Partitioned:
		return s.partition(tb, i)
	}
	tb.Fatalf("%v: no such fault", t.Do)
	return nil
}

// partition cuts a member off from its peers: really, or, where no network of
// one's own can be made, by a stand-in that answers as one that is cut off.
func (s *suite) partition(tb testing.TB, i int) (heal func()) {
	if s.cluster.HasNetwork() {
		lift, err := s.cluster.Partition(i)
		require.NoError(tb, err)
		return func() { require.NoError(tb, lift()) }
	}
	server := s.cluster.Servers()[i]
	var header *pb.ResponseHeader
	s.byHand(tb, func(ctx context.Context, cc *grpc.ClientConn) error {
		status, err := pb.NewMaintenanceClient(cc).Status(ctx, &pb.StatusRequest{})
		header = status.GetHeader()
		return err
	})
	server.Proxy().Retarget(newStandIn(tb, header))
	return func() { server.Proxy().Retarget(server.Direct()) }
}

// readOnly raises the alarm that etcd raises when it has run out of space.
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

// outside names the servers by address: their names are known in this process
// only.
func (s *suite) outside(testing.TB) string {
	var addrs []string
	for _, server := range s.cluster.Servers() {
		addrs = append(addrs, server.Proxy().Addr())
	}
	return fmt.Sprintf("etcd3://%s/%s?discovery=false&ttl=%v&loop_wait=%v&retry_timeout=%v", strings.Join(addrs, ","), s.root,
		suiteTiming.TTL, suiteTiming.LoopWait, suiteTiming.RetryTimeout)
}
