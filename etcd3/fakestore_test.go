package etcd3

import (
	"cmp"
	"context"
	"maps"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// quota is the state of the quota of a fakeStore.
type quota int

const (
	hasSpace quota = iota
	// almostFull applies the next write, answers with NOSPACE and becomes isFull, like
	// etcd with the write that crosses its quota.
	almostFull
	// isFull refuses every request that may write, except deletions.
	isFull
)

// maxOps is etcd's --max-txn-ops.
const maxOps = 128

// fakeStore is one etcd server in memory. It has keys, leases that do not expire, and a
// quota. The hook, if any, is called with each request before it is applied.
type fakeStore struct {
	pb.UnimplementedKVServer
	pb.UnimplementedLeaseServer
	pb.UnimplementedMaintenanceServer

	mu      sync.Mutex
	rev     int64
	keys    map[string]*mvccpb.KeyValue
	leases  map[int64]int64
	space   quota
	cluster uint64
	version string
	member  uint64
	hook    func(ctx context.Context, request any) error
	term    func(r *pb.TxnRequest) uint64 // of the answer; nil: always the same
}

func newFakeStore() *fakeStore {
	return &fakeStore{rev: 1, keys: map[string]*mvccpb.KeyValue{}, leases: map[int64]int64{}, cluster: 1, version: "3.7.3", member: 2}
}

// serve starts the server on loopback and returns its address.
func serve(tb testing.TB, register func(*grpc.Server), o ...grpc.ServerOption) string {
	tb.Helper()
	l, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	g := grpc.NewServer(o...)
	register(g)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(l) }()
	tb.Cleanup(func() { g.Stop(); <-done })
	return l.Addr().String()
}

func (f *fakeStore) register(g *grpc.Server) {
	pb.RegisterKVServer(g, f)
	pb.RegisterLeaseServer(g, f)
	pb.RegisterMaintenanceServer(g, f)
}

// client returns a Store on the server with c's settings.
func (f *fakeStore) client(tb testing.TB, c Config) (*Backend, *dcs.Store) {
	tb.Helper()
	return f.clientAt(tb, serve(tb, f.register), c)
}

func (f *fakeStore) clientAt(tb testing.TB, addr string, c Config) (*Backend, *dcs.Store) {
	tb.Helper()
	c.Endpoints = append([]string{addr}, c.Endpoints...)
	c.Root, c.NoDiscovery, c.Timing = "t", true, cmp.Or(c.Timing, suiteTiming)
	b, err := New(c)
	require.NoError(tb, err)
	store, err := dcs.New(b, dcs.Options{Timing: c.Timing})
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, store.Close()) })
	return b, store
}

func (f *fakeStore) setSpace(q quota) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.space = q
}

// key returns the value of a key of the root "t", or nil.
func (f *fakeStore) key(key string) *mvccpb.KeyValue {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.keys["/t/"+key]
}

func (f *fakeStore) leaseCount() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.leases)
}

func (f *fakeStore) setHook(hook func(ctx context.Context, request any) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook = hook
}

func (f *fakeStore) before(ctx context.Context, request any) error {
	f.mu.Lock()
	hook := f.hook
	f.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(ctx, request)
}

func (f *fakeStore) header() *pb.ResponseHeader {
	return &pb.ResponseHeader{ClusterId: f.cluster, MemberId: f.member, Revision: f.rev, RaftTerm: 2}
}

// charge applies the quota to a write. If refuse is not nil, the write must not be
// applied. Otherwise after is the answer to the applied write. Under f.mu.
func (f *fakeStore) charge() (refuse, after error) {
	switch f.space {
	case isFull:
		return rpctypes.ErrGRPCNoSpace, nil
	case almostFull:
		f.space = isFull
		return nil, rpctypes.ErrGRPCNoSpace
	}
	return nil, nil
}

func (f *fakeStore) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	if err := f.before(ctx, r); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rangeLocked(r), nil
}

func (f *fakeStore) rangeLocked(r *pb.RangeRequest) *pb.RangeResponse {
	out := &pb.RangeResponse{Header: f.header()}
	if len(r.RangeEnd) == 0 {
		if kv := f.keys[string(r.Key)]; kv != nil {
			out.Kvs = []*mvccpb.KeyValue{kv}
		}
		return out
	}
	for _, key := range slices.Sorted(maps.Keys(f.keys)) {
		if key >= string(r.Key) && key < string(r.RangeEnd) {
			out.Kvs = append(out.Kvs, f.keys[key])
		}
	}
	return out
}

func (f *fakeStore) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	if err := f.before(ctx, r); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if max(len(r.Compare), len(r.Success), len(r.Failure)) > maxOps {
		return nil, rpctypes.ErrGRPCTooManyOps
	}
	var after error
	if puts(r) {
		refuse, later := f.charge()
		if refuse != nil {
			return nil, refuse
		}
		after = later
	}
	ops, ok := r.Success, true
	for _, c := range r.Compare {
		ok = ok && f.holds(c)
	}
	if !ok {
		ops = r.Failure
	}
	for _, op := range ops {
		if p := op.GetRequestPut(); p != nil && p.Lease != 0 && f.leases[p.Lease] == 0 {
			return nil, rpctypes.ErrGRPCLeaseNotFound
		}
	}
	out := f.apply(ops)
	out.Succeeded = ok
	if f.term != nil {
		out.Header.RaftTerm = f.term(r)
	}
	if after != nil {
		return nil, after
	}
	return out, nil
}

// puts reports whether etcd charges the transaction to the quota. etcd does so even if
// the conditions of the transaction do not hold.
func puts(r *pb.TxnRequest) bool {
	return slices.ContainsFunc(slices.Concat(r.Success, r.Failure), func(op *pb.RequestOp) bool { return op.GetRequestPut() != nil })
}

func (f *fakeStore) holds(c *pb.Compare) bool {
	kv := f.keys[string(c.Key)]
	if kv == nil {
		kv = &mvccpb.KeyValue{}
	}
	if c.Target == pb.Compare_CREATE {
		return kv.CreateRevision == c.GetCreateRevision()
	}
	return kv.ModRevision == c.GetModRevision()
}

func (f *fakeStore) apply(ops []*pb.RequestOp) *pb.TxnResponse {
	out, writes := &pb.TxnResponse{}, false
	next := f.rev + 1
	for _, op := range ops {
		var r pb.ResponseOp
		switch {
		case op.GetRequestRange() != nil:
			r.Response = &pb.ResponseOp_ResponseRange{ResponseRange: f.rangeLocked(op.GetRequestRange())}
		case op.GetRequestPut() != nil:
			writes = true
			f.put(op.GetRequestPut(), next)
			r.Response = &pb.ResponseOp_ResponsePut{ResponsePut: &pb.PutResponse{}}
		default:
			key := string(op.GetRequestDeleteRange().Key)
			writes = writes || f.keys[key] != nil
			delete(f.keys, key)
			r.Response = &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: &pb.DeleteRangeResponse{}}
		}
		out.Responses = append(out.Responses, &r)
	}
	if writes {
		f.rev = next
	}
	out.Header = f.header()
	return out
}

func (f *fakeStore) put(p *pb.PutRequest, rev int64) {
	kv := &mvccpb.KeyValue{Key: p.Key, Value: p.Value, Lease: p.Lease, CreateRevision: rev, ModRevision: rev}
	if old := f.keys[string(p.Key)]; old != nil {
		kv.CreateRevision = old.CreateRevision
		if p.IgnoreLease {
			kv.Lease = old.Lease
		}
	}
	f.keys[string(p.Key)] = kv
}

func (f *fakeStore) LeaseGrant(ctx context.Context, r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	if err := f.before(ctx, r); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	refuse, after := f.charge()
	if refuse != nil {
		return nil, refuse
	}
	if f.leases[r.ID] != 0 {
		return nil, rpctypes.ErrGRPCLeaseExist
	}
	f.leases[r.ID] = r.TTL
	if after != nil {
		return nil, after
	}
	return &pb.LeaseGrantResponse{Header: f.header(), ID: r.ID, TTL: r.TTL}, nil
}

func (f *fakeStore) LeaseTimeToLive(_ context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ttl := f.leases[r.ID]
	if ttl == 0 {
		return nil, rpctypes.ErrGRPCLeaseNotFound
	}
	return &pb.LeaseTimeToLiveResponse{Header: f.header(), ID: r.ID, TTL: ttl, GrantedTTL: ttl}, nil
}

func (f *fakeStore) LeaseRevoke(ctx context.Context, r *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	if err := f.before(ctx, r); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.leases[r.ID] == 0 {
		return nil, rpctypes.ErrGRPCLeaseNotFound
	}
	delete(f.leases, r.ID)
	var ops []*pb.RequestOp
	for key, kv := range f.keys {
		if kv.Lease == r.ID {
			ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(key)}}})
		}
	}
	return &pb.LeaseRevokeResponse{Header: f.apply(ops).Header}, nil
}

func (f *fakeStore) LeaseKeepAlive(s pb.Lease_LeaseKeepAliveServer) error {
	for {
		r, err := s.Recv()
		if err != nil {
			return err
		}
		if err := f.before(s.Context(), r); err != nil {
			return err
		}
		f.mu.Lock()
		answer := &pb.LeaseKeepAliveResponse{Header: f.header(), ID: r.ID, TTL: f.leases[r.ID]}
		f.mu.Unlock()
		if err := s.Send(answer); err != nil {
			return err
		}
	}
}

func (f *fakeStore) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &pb.StatusResponse{Header: f.header(), Leader: 2, Version: f.version}, nil
}

func putEvent(kv *mvccpb.KeyValue) []*mvccpb.Event {
	return []*mvccpb.Event{{Type: mvccpb.Event_PUT, Kv: kv}}
}

// newSession returns a Session of the store.
func newSession(tb testing.TB, store *dcs.Store) *dcs.Session {
	tb.Helper()
	s, err := store.NewSession(tb.Context(), dcs.SessionOptions{})
	require.NoError(tb, err)
	return s
}

// within bounds a call that must not use up its budget.
func within(tb testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(tb.Context(), d)
	tb.Cleanup(cancel)
	return ctx
}
