package etcd3

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
)

// observed counts the decisions about members.
type observed struct {
	mu     sync.Mutex
	events []dcs.EndpointEvent
}

func (o *observed) note(ev dcs.EndpointEvent) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.events = append(o.events, ev)
}

func (o *observed) count(change dcs.EndpointChange, reason string) (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, ev := range o.events {
		if ev.Change == change && strings.Contains(ev.Reason, reason) {
			n++
		}
	}
	return n
}

// refusal makes a member refuse every request except logins while it is on, and counts the
// refused ones.
type refusal struct {
	on atomic.Bool
	n  atomic.Int64
}

func (r *refusal) refuses(method string) bool {
	if !r.on.Load() || strings.Contains(method, "Authenticate") {
		return false
	}
	r.n.Add(1)
	return true
}

// refuse makes a member answer with err while refused is on. Its other answers come from the
// member with that id: two addresses with one id are one server.
func refuse(member uint64, refused *refusal, err error) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.UnaryInterceptor(func(ctx context.Context, r any, i *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			if refused.refuses(i.FullMethod) {
				return nil, err
			}
			resp, err := h(ctx, r)
			if err == nil {
				nameMember(resp, member)
			}
			return resp, err
		}),
		grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, i *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			if refused.refuses(i.FullMethod) {
				return err
			}
			return h(srv, memberStream{s, member})
		}),
	}
}

// memberStream sends the answers of one member.
type memberStream struct {
	grpc.ServerStream
	member uint64
}

// SendMsg implements [grpc.ServerStream].
func (s memberStream) SendMsg(m any) error {
	nameMember(m, s.member)
	return s.ServerStream.SendMsg(m)
}

// nameMember sets the id of the member in the header of an answer.
func nameMember(answer any, member uint64) {
	if a, ok := answer.(interface{ GetHeader() *pb.ResponseHeader }); ok && a.GetHeader() != nil {
		a.GetHeader().MemberId = member
	}
}

// members starts two members of one store and a client of both. A member refuses requests
// while its refusal is on.
func members(t *testing.T, err error) (refusing [2]*refusal, o *observed, store *dcs.Store) {
	t.Helper()
	f := &fakeAuth{fakeStore: newFakeStore()}
	f.setHook(func(ctx context.Context, _ any) error { return f.check(ctx) })
	var addrs []string
	for i := range refusing {
		refusing[i] = &refusal{}
		addrs = append(addrs, serve(t, func(g *grpc.Server) {
			f.register(g)
			pb.RegisterAuthServer(g, f)
			pb.RegisterWatchServer(g, f)
		}, refuse(uint64(i+1), refusing[i], err)...))
	}
	o = &observed{}
	_, store = f.clientAt(t, addrs[0], Config{
		Endpoints: addrs[1:], Username: "u", Password: "p", Observer: dcs.Observer{Endpoint: o.note},
	})
	return refusing, o, store
}

// useStore makes one call of each kind.
func useStore(t *testing.T, store *dcs.Store) {
	t.Helper()
	ctx := within(t, 6*suiteTiming.RetryTimeout) // each call has a budget of its own
	lease, _, err := store.Grant(ctx, suiteTiming.TTL)
	require.NoError(t, err)
	_, err = lease.Renew(ctx)
	require.NoError(t, err)
	_, err = store.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.PutLeased("k", []byte("v"), lease.ID())}})
	require.NoError(t, err)
	_, err = store.Snapshot(ctx, "")
	require.NoError(t, err)
	_, err = store.Wait(ctx, "", 0)
	require.NoError(t, err)
	require.NoError(t, lease.Revoke(ctx))
}

// A call succeeds although one member does not know the token, like a member that was
// added again (etcd #9629). If every member refuses, the call fails with
// ErrUnauthorized at once, and no member is ejected.
func TestTokenThatOneMemberDoesNotKnow(t *testing.T) {
	for name, refusal := range map[string]error{"invalid token": rpctypes.ErrGRPCInvalidAuthToken, "denied": rpctypes.ErrGRPCPermissionDenied} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			refusing, o, store := members(t, refusal)
			useStore(t, store)
			for _, one := range refusing {
				one.on.Store(true)
				for range 3 {
					useStore(t, store)
				}
				one.on.Store(false)
			}
			require.Positive(t, o.count(dcs.Switched, "")+o.count(dcs.Ejected, ""))
		})
	}
	t.Run("all", func(t *testing.T) {
		t.Parallel()
		for done := 0; done < 3; {
			if refusedByAll(t) {
				done++
			}
		}
	})
}

// refusedByAll makes a read and a Commit that every member refuses, and reports whether
// they prove anything. They do not if the machine was so slow that a member was ejected for
// its silence, and may serve, or that a hedge of the Commit was sent, and may be executed.
func refusedByAll(t *testing.T) bool {
	t.Helper()
	refusing, o, store := members(t, rpctypes.ErrGRPCPermissionDenied)
	useStore(t, store)
	for _, one := range refusing {
		one.on.Store(true)
	}
	_, read := store.Get(t.Context(), "k")
	_, write := store.Commit(t.Context(), dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
	require.Zero(t, o.count(dcs.Ejected, "permission denied"))
	if o.count(dcs.Ejected, "") > 0 || errors.Is(write, dcs.ErrAmbiguous) {
		t.Log("the machine was slow:", read, write)
		return false
	}
	for _, err := range []error{read, write} {
		require.ErrorIs(t, err, dcs.ErrUnauthorized)
		require.NotErrorIs(t, err, context.DeadlineExceeded, "not at once")
	}
	return true
}

// While every member refuses requests because there are too many, a Store makes at most one
// call a second, of one or two requests. No member is ejected, and everything works again
// afterwards.
func TestThrottledMembersAreAskedOnceASecond(t *testing.T) {
	t.Parallel()
	refusing, o, store := members(t, rpctypes.ErrGRPCRequestTooManyRequests)
	useStore(t, store)
	lease, _, err := store.Grant(within(t, prompt), suiteTiming.TTL)
	require.NoError(t, err)
	seen, err := store.Wait(within(t, prompt), "", 0)
	require.NoError(t, err)
	for _, one := range refusing {
		one.on.Store(true)
	}
	_, err = store.Get(within(t, 2*time.Second), "k") // each member has refused
	require.ErrorIs(t, err, dcs.ErrUnavailable)
	require.ErrorContains(t, err, "too many requests")
	for _, one := range refusing {
		one.n.Store(0)
	}
	begin := time.Now()
	ctx := within(t, 3*time.Second)
	testcluster.StartRefused(ctx, t,
		func() error { _, err := store.Get(ctx, "k"); return err },
		func() error { _, err := store.Wait(ctx, "", seen.Revision); return err },
		func() error { _, err := lease.Renew(ctx, "k"); return err },
		func() error { _, err := store.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}}); return err },
	).Wait()
	require.LessOrEqual(t, float64(refusing[0].n.Load()+refusing[1].n.Load()), 2*(time.Since(begin).Seconds()+1))
	require.Zero(t, o.count(dcs.Ejected, "too many requests"), "%v", o.events)
	for _, one := range refusing {
		one.on.Store(false)
	}
	_, err = store.Snapshot(within(t, 2*suiteTiming.RetryTimeout), "")
	require.NoError(t, err)
	useStore(t, store)
}

// A renewal that gives up the stream ends the other renewals on the stream. That blames
// no member.
func TestOwnCancellationEjectsNobody(t *testing.T) {
	t.Parallel()
	f := newFakeStore()
	o := &observed{}
	stuck := make(chan struct{})
	b, store := f.clientAt(t, serve(t, func(g *grpc.Server) {
		pb.RegisterKVServer(g, f)
		pb.RegisterMaintenanceServer(g, f)
		pb.RegisterLeaseServer(g, &silentRenewals{f, stuck})
	}), Config{Observer: dcs.Observer{Endpoint: o.note}})
	defer close(stuck)
	_, err := store.Snapshot(within(t, prompt), "")
	require.NoError(t, err)
	var others sync.WaitGroup
	for range 10 {
		short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		others.Go(func() { _, _ = (&lease{b, 8}).Renew(within(t, 300*time.Millisecond)) })
		_, _ = (&lease{b, 7}).Renew(short)
		cancel()
	}
	others.Wait()
	require.Zero(t, o.count(dcs.Ejected, "cancel"))
	require.Zero(t, o.count(dcs.Ejected, "given up"))
}

// silentRenewals answers no renewal.
type silentRenewals struct {
	*fakeStore
	end chan struct{}
}

func (s *silentRenewals) LeaseKeepAlive(stream pb.Lease_LeaseKeepAliveServer) error {
	go func() {
		for {
			if _, err := stream.Recv(); err != nil {
				return
			}
		}
	}()
	select {
	case <-s.end:
	case <-stream.Context().Done():
	}
	return stream.Context().Err()
}
