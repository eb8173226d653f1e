package etcd3

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// fakeMember answers renewals and reads with the answers of a test.
type fakeMember struct {
	pb.UnimplementedKVServer
	pb.UnimplementedLeaseServer
	pb.UnimplementedMaintenanceServer

	renew   func(n int64) *pb.LeaseKeepAliveResponse
	read    func(n int64) (*pb.RangeResponse, error)
	renewed atomic.Int64
	reads   atomic.Int64
}

func header(term uint64) *pb.ResponseHeader {
	return &pb.ResponseHeader{ClusterId: 1, MemberId: 2, Revision: 10, RaftTerm: term}
}

func (f *fakeMember) Range(_ context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	if r.KeysOnly { // a probe of the Pool's
		return &pb.RangeResponse{Header: header(14)}, nil
	}
	return f.read(f.reads.Add(1))
}

func (f *fakeMember) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	return &pb.StatusResponse{Header: header(14), Leader: 2}, nil
}

func (f *fakeMember) LeaseKeepAlive(s pb.Lease_LeaseKeepAliveServer) error {
	for {
		if _, err := s.Recv(); err != nil {
			return err
		}
		if err := s.Send(f.renew(f.renewed.Add(1))); err != nil {
			return err
		}
	}
}

// fake starts f and a client of it.
func fake(t *testing.T, f *fakeMember) *Backend {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	g := grpc.NewServer()
	pb.RegisterKVServer(g, f)
	pb.RegisterLeaseServer(g, f)
	pb.RegisterMaintenanceServer(g, f)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(l) }()
	t.Cleanup(func() { g.Stop(); <-done })
	b, err := New(Config{Endpoints: []string{l.Addr().String()}, Root: "t", NoDiscovery: true, Timing: suiteTiming})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return b
}

func alive(term uint64, ttl int64) *pb.LeaseKeepAliveResponse {
	return &pb.LeaseKeepAliveResponse{Header: header(term), ID: 7, TTL: ttl}
}

func found(term uint64) (*pb.RangeResponse, error) {
	return &pb.RangeResponse{Header: header(term), Kvs: []*mvccpb.KeyValue{{Key: []byte("/t/k"), Value: []byte("v"), CreateRevision: 3, ModRevision: 4, Lease: 7}}}, nil
}

func shortly(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// P2: a renewal does not count if a leader that was paused confirms it in its old term
// while the read comes back from a newer one.
func TestStaleTermIsNoConfirmation(t *testing.T) {
	f := &fakeMember{
		renew: func(int64) *pb.LeaseKeepAliveResponse { return alive(13, 8) },
		read:  func(int64) (*pb.RangeResponse, error) { return found(14) },
	}
	_, err := (&lease{fake(t, f), 7}).Renew(shortly(t), "k")
	require.Equal(t, dcs.ErrUnavailable, dcs.KindOf(err), "%v", err)
	require.Greater(t, f.renewed.Load(), int64(1), "the renewal is retried")
}

func TestSameTermIsAConfirmation(t *testing.T) {
	f := &fakeMember{
		renew: func(n int64) *pb.LeaseKeepAliveResponse { return alive(12+uint64(min(n, 2)), 8) },
		read:  func(int64) (*pb.RangeResponse, error) { return found(14) },
	}
	before := dcs.Now()
	r, err := (&lease{fake(t, f), 7}).Renew(shortly(t), "k")
	require.NoError(t, err)
	require.Equal(t, 8*time.Second, r.TTL)
	require.False(t, r.From.Before(before))
	e, ok := r.Entry("k")
	require.True(t, ok)
	require.Equal(t, dcs.Entry{Key: "k", Value: []byte("v"), Created: 3, Modified: 4, Lease: "7"}, e)
}

// A follower that lags behind may not know a lease that was granted a moment ago. ErrLost
// therefore needs two answers that the lease does not exist.
func TestLostIsSaidTwice(t *testing.T) {
	f := &fakeMember{
		renew: func(n int64) *pb.LeaseKeepAliveResponse { return alive(14, map[bool]int64{true: 0, false: 8}[n == 1]) },
		read:  func(int64) (*pb.RangeResponse, error) { return found(14) },
	}
	b := fake(t, f)
	_, err := (&lease{b, 7}).Renew(shortly(t), "k")
	require.NoError(t, err)
	f.renew = func(int64) *pb.LeaseKeepAliveResponse { return alive(14, 0) }
	_, err = (&lease{b, 7}).Renew(shortly(t), "k")
	require.Equal(t, dcs.ErrLost, dcs.KindOf(err), "%v", err)
}

// The answer that a lease does not exist does not count if it comes from an old term.
func TestStaleTermIsNoLoss(t *testing.T) {
	f := &fakeMember{
		renew: func(int64) *pb.LeaseKeepAliveResponse { return alive(13, 0) },
		read:  func(int64) (*pb.RangeResponse, error) { return found(14) },
	}
	_, err := (&lease{fake(t, f), 7}).Renew(shortly(t), "k")
	require.Equal(t, dcs.ErrUnavailable, dcs.KindOf(err), "%v", err)
}

// A server of another cluster is detected by the id of its cluster.
func TestAnotherClusterIsRefused(t *testing.T) {
	f := &fakeMember{renew: func(int64) *pb.LeaseKeepAliveResponse { return alive(14, 8) }}
	f.read = func(n int64) (*pb.RangeResponse, error) {
		r, err := found(14)
		if n > 1 {
			r.Header.ClusterId = 99
		}
		return r, err
	}
	b := fake(t, f)
	_, err := b.Get(shortly(t), "k")
	require.NoError(t, err)
	_, err = b.Get(shortly(t), "k")
	require.ErrorContains(t, err, "another store")
}
