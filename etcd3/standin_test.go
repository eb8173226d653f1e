package etcd3

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// standIn answers like an etcd follower that is cut off from its peers, as recorded on
// etcd 3.7.3 in network namespaces. For the first 3.4 s a call gets no answer, and
// fails with "request timed out" after 7 s. From then on calls with hasleader fail
// with "no leader" at once. Until then progress requests are answered with an old
// revision. Status is always answered. It replaces a real follower where no namespaces
// can be made.
type standIn struct {
	pb.UnimplementedKVServer
	pb.UnimplementedLeaseServer
	pb.UnimplementedWatchServer
	pb.UnimplementedMaintenanceServer
	pb.UnimplementedClusterServer

	cut    time.Time
	header *pb.ResponseHeader // as it was when the member was cut off
}

const (
	// noticed is the time at which the member detects that it has no leader.
	noticed = 3400 * time.Millisecond
	// requestTimeout is the time for which the member waits for a proposal or a read
	// index.
	requestTimeout = 7 * time.Second
)

var (
	errNoLeader = status.Error(codes.Unavailable, "etcdserver: no leader")
	errTimedOut = status.Error(codes.Unavailable, "etcdserver: request timed out")
)

// newStandIn starts one on loopback, cut off from now on.
func newStandIn(tb testing.TB, header *pb.ResponseHeader) (addr string) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	s := &standIn{cut: time.Now(), header: header}
	g := grpc.NewServer()
	pb.RegisterKVServer(g, s)
	pb.RegisterLeaseServer(g, s)
	pb.RegisterWatchServer(g, s)
	pb.RegisterMaintenanceServer(g, s)
	pb.RegisterClusterServer(g, s)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(l) }()
	tb.Cleanup(func() { g.Stop(); <-done })
	return l.Addr().String()
}

// refused returns the error of a request with hasleader, once the member has detected
// that it has no leader.
func (s *standIn) refused(ctx context.Context) error {
	if len(metadata.ValueFromIncomingContext(ctx, "hasleader")) > 0 && time.Since(s.cut) >= noticed {
		return errNoLeader
	}
	return nil
}

// stuck returns the error of a call that needs the quorum.
func (s *standIn) stuck(ctx context.Context) error {
	if err := s.refused(ctx); err != nil {
		return err
	}
	t := time.NewTimer(requestTimeout)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return errTimedOut
	}
}

// streaming returns the error of a stream, once the member has detected that it has no
// leader.
func (s *standIn) streaming(ctx context.Context) error {
	t := time.NewTimer(noticed - time.Since(s.cut))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return errNoLeader
	}
}

func (s *standIn) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	if r.Serializable {
		return &pb.RangeResponse{Header: s.header}, s.refused(ctx)
	}
	return nil, s.stuck(ctx)
}

func (s *standIn) Put(ctx context.Context, _ *pb.PutRequest) (*pb.PutResponse, error) {
	return nil, s.stuck(ctx)
}

func (s *standIn) DeleteRange(ctx context.Context, _ *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	return nil, s.stuck(ctx)
}

func (s *standIn) Txn(ctx context.Context, _ *pb.TxnRequest) (*pb.TxnResponse, error) {
	return nil, s.stuck(ctx)
}

func (s *standIn) LeaseGrant(ctx context.Context, _ *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	return nil, s.stuck(ctx)
}

func (s *standIn) LeaseRevoke(ctx context.Context, _ *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	return nil, s.stuck(ctx)
}

func (s *standIn) LeaseTimeToLive(ctx context.Context, _ *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	return nil, s.stuck(ctx)
}

func (s *standIn) LeaseKeepAlive(stream pb.Lease_LeaseKeepAliveServer) error {
	return s.streaming(stream.Context())
}

// Watch answers creations and progress requests with the revision at which the member was
// cut off.
func (s *standIn) Watch(stream pb.Watch_WatchServer) error {
	over := make(chan error, 1)
	go func() { over <- s.streaming(stream.Context()) }()
	requests := make(chan *pb.WatchRequest)
	go func() {
		defer close(requests)
		for {
			r, err := stream.Recv()
			if err != nil {
				return
			}
			select {
			case requests <- r:
			case <-stream.Context().Done():
				return
			}
		}
	}()
	for {
		select {
		case err := <-over:
			return err
		case r, open := <-requests:
			if !open {
				return nil
			}
			answer := &pb.WatchResponse{Header: s.header, WatchId: -1}
			if c := r.GetCreateRequest(); c != nil {
				answer.WatchId, answer.Created = c.WatchId, true
			}
			if err := stream.Send(answer); err != nil {
				return err
			}
		}
	}
}

func (s *standIn) Status(ctx context.Context, _ *pb.StatusRequest) (*pb.StatusResponse, error) {
	if err := s.refused(ctx); err != nil {
		return nil, err
	}
	r := &pb.StatusResponse{Header: s.header, Version: "3.7.3", Leader: s.header.MemberId + 1, RaftTerm: s.header.RaftTerm}
	if time.Since(s.cut) >= noticed {
		r.Leader, r.Errors = 0, []string{"etcdserver: no leader"}
	}
	return r, nil
}

func (s *standIn) MemberList(ctx context.Context, r *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	if r.Linearizable {
		return nil, s.stuck(ctx)
	}
	return &pb.MemberListResponse{Header: s.header}, nil
}
