package etcd3

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// fakeAuth is a fakeStore with users. Logins take time and run one after the other.
type fakeAuth struct {
	*fakeStore
	pb.UnimplementedAuthServer
	pb.UnimplementedWatchServer

	logins atomic.Int64
	turn   sync.Mutex

	mu    sync.Mutex
	cost  time.Duration
	hang  chan struct{} // logins wait until hang is closed; nil: they do not wait
	off   bool
	valid string // the token; empty: none
	next  int

	password string // empty: any
}

func newFakeAuth(t *testing.T) (*fakeAuth, *Backend, *dcs.Store) {
	f := &fakeAuth{fakeStore: newFakeStore()}
	b, store := f.open(t)
	return f, b, store
}

func (f *fakeAuth) open(t *testing.T) (*Backend, *dcs.Store) {
	return f.openAs(t, Config{Username: "u", Password: "p"})
}

func (f *fakeAuth) openAs(t *testing.T, c Config) (*Backend, *dcs.Store) {
	addr := serve(t, func(g *grpc.Server) {
		f.register(g)
		pb.RegisterAuthServer(g, f)
		pb.RegisterWatchServer(g, f)
	})
	f.setHook(func(ctx context.Context, _ any) error { return f.check(ctx) })
	return f.clientAt(t, addr, c)
}

func (f *fakeAuth) Authenticate(ctx context.Context, r *pb.AuthenticateRequest) (*pb.AuthenticateResponse, error) {
	f.logins.Add(1)
	f.mu.Lock()
	hang, off, cost := f.hang, f.off, f.cost
	wrong := f.password != "" && r.Password != f.password
	f.mu.Unlock()
	if wrong && !off {
		return nil, rpctypes.ErrGRPCAuthFailed
	}
	if hang != nil {
		select {
		case <-hang:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if off {
		return nil, rpctypes.ErrGRPCAuthNotEnabled
	}
	f.turn.Lock()
	time.Sleep(cost) // the hash of a password
	f.turn.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.valid == "" {
		f.next++
		f.valid = fmt.Sprint("token", f.next)
	}
	return &pb.AuthenticateResponse{Header: &pb.ResponseHeader{ClusterId: 1}, Token: f.valid}, nil
}

// check returns etcd's error for the token of a request, or nil.
func (f *fakeAuth) check(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch token := metadata.ValueFromIncomingContext(ctx, "token"); {
	case f.off:
		return nil
	case len(token) == 0:
		return rpctypes.ErrGRPCUserEmpty
	case f.valid == "" || !slices.Contains(token, f.valid):
		return rpctypes.ErrGRPCInvalidAuthToken
	}
	return nil
}

// expire makes every token invalid.
func (f *fakeAuth) expire() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.valid = ""
}

func (f *fakeAuth) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// Watch answers the creation of a watch with an invalid token like etcd. It answers progress
// requests and sends no events.
func (f *fakeAuth) Watch(s pb.Watch_WatchServer) error {
	for {
		r, err := s.Recv()
		if err != nil {
			return err
		}
		f.fakeStore.mu.Lock()
		answer := &pb.WatchResponse{Header: f.header(), Created: r.GetCreateRequest() != nil}
		f.fakeStore.mu.Unlock()
		if answer.Created && f.check(s.Context()) != nil {
			answer.Canceled, answer.CancelReason = true, rpctypes.ErrPermissionDenied.Error()
		}
		if err := s.Send(answer); err != nil {
			return err
		}
	}
}

// Calls that find the token expired at the same time share one login.
func TestLoginsAreShared(t *testing.T) {
	f, _, store := newFakeAuth(t)
	f.set(func() { f.cost = 50 * time.Millisecond })
	_, err := store.Snapshot(t.Context(), "")
	require.NoError(t, err)
	f.logins.Store(0)
	f.expire()
	var calls sync.WaitGroup
	for range 100 {
		calls.Go(func() {
			_, err := store.Get(within(t, 2*prompt), "k")
			if dcs.KindOf(err) != dcs.ErrNotFound {
				t.Error(err)
			}
		})
	}
	calls.Wait()
	require.LessOrEqual(t, f.logins.Load(), int64(2))
}

// A login continues after the call that began it has ended.
func TestLoginOutlivesItsCall(t *testing.T) {
	f, b, store := newFakeAuth(t)
	_, err := store.Snapshot(t.Context(), "") // after it the Pool's own first requests are done
	require.NoError(t, err)
	hang := make(chan struct{})
	f.set(func() { f.hang, f.valid = hang, "" })
	f.logins.Store(0)
	first := make(chan error, 1)
	c, err := b.connected(b.c.Endpoints[0])
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	old, err := c.token(t.Context())
	require.NoError(t, err)
	go func() { _, err := c.login(ctx, old); first <- err }()
	require.Eventually(t, func() bool { return f.logins.Load() > 0 }, 5*time.Second, time.Millisecond)
	cancel()
	require.ErrorIs(t, <-first, context.Canceled)
	f.set(func() { f.hang = nil })
	close(hang)
	_, err = store.Snapshot(within(t, prompt), "")
	require.NoError(t, err)
	require.Equal(t, int64(1), f.logins.Load())
}

// P1: a renewal whose token expired is sent again with a new one, and counts from
// that sending.
func TestRenewalWithAnExpiredToken(t *testing.T) {
	f, _, store := newFakeAuth(t)
	lease, _, err := store.Grant(t.Context(), suiteTiming.TTL)
	require.NoError(t, err)
	_, err = lease.Renew(t.Context())
	require.NoError(t, err)
	for range 20 {
		f.expire()
		before := dcs.Now()
		r, err := lease.Renew(within(t, prompt))
		require.NoError(t, err)
		require.False(t, r.From.Before(before))
	}
}

// A renewal returns by its own deadline, although another one still waits.
func TestRenewalKeepsItsBudget(t *testing.T) {
	f := &fakeAuth{fakeStore: newFakeStore(), hang: make(chan struct{})}
	defer close(f.hang)
	b, _ := f.open(t)
	long := within(t, 4*prompt)
	go func() { _, _ = (&lease{b, 7}).Renew(long) }()
	for range 5 {
		begin := time.Now()
		_, err := (&lease{b, 7}).Renew(within(t, 200*time.Millisecond))
		require.Equal(t, dcs.ErrUnavailable, dcs.KindOf(err), "%v", err)
		require.Less(t, time.Since(begin), time.Second)
	}
}

// A Wait does not end because the token of its watch expired.
func TestWatchWithAnExpiredToken(t *testing.T) {
	f, b, store := newFakeAuth(t)
	_, err := store.Snapshot(t.Context(), "")
	require.NoError(t, err)
	// The token expires between the read of the tree and the watch.
	var reads atomic.Int64
	f.setHook(func(ctx context.Context, r any) error {
		err := f.check(ctx)
		if rr, ok := r.(*pb.RangeRequest); ok && len(rr.RangeEnd) > 0 && reads.Add(1) < 3 {
			f.expire()
		}
		return err
	})
	ctx, cancel := context.WithTimeout(t.Context(), prompt)
	defer cancel()
	_, err = store.Wait(ctx, "w", 1)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NotEqual(t, dcs.ErrUnauthorized, dcs.KindOf(err), "%v", err)
	require.Positive(t, b.copy.Begins())
}

// No call fails while authentication is enabled or disabled. While it is disabled, not
// every call tries to log in.
func TestAuthenticationIsSwitched(t *testing.T) {
	f, _, store := newFakeAuth(t)
	lease, _, err := store.Grant(t.Context(), suiteTiming.TTL)
	require.NoError(t, err)
	for round := range 10 {
		f.set(func() { f.off, f.valid = round%2 == 0, "" })
		before := f.logins.Load()
		for range 10 {
			_, err := store.Get(within(t, prompt), "k")
			require.Equal(t, dcs.ErrNotFound, dcs.KindOf(err), "%v", err)
			_, err = lease.Renew(within(t, prompt))
			require.NoError(t, err)
		}
		require.LessOrEqual(t, f.logins.Load()-before, int64(2))
	}
}

// No call of any kind fails while authentication is enabled and disabled under concurrent
// calls. A Wait that lasts through all of it does not end.
func TestAuthenticationIsSwitchedUnderCalls(t *testing.T) {
	t.Parallel()
	f, b, store := newFakeAuth(t)
	lease, _, err := store.Grant(t.Context(), suiteTiming.TTL)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	running.Go(func() {
		_, err := store.Wait(ctx, "other", 1<<40)
		if !errors.Is(err, context.Canceled) || dcs.KindOf(err) != nil {
			t.Errorf("Wait: %v", err)
		}
	})
	calls := map[string]*atomic.Int64{}
	for kind, call := range map[string]func() error{
		"Get":      func() error { _, err := store.Get(ctx, "k"); return err },
		"Snapshot": func() error { _, err := store.Snapshot(ctx, ""); return err },
		"Wait":     func() error { _, err := store.Wait(ctx, "other", 0); return err },
		"Commit":   func() error { _, err := store.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}}); return err },
		"Renew":    func() error { _, err := lease.Renew(ctx, "k"); return err },
		"Grant and Revoke": func() error {
			l, _, err := store.Grant(ctx, suiteTiming.TTL)
			if err == nil {
				err = l.Revoke(ctx)
			}
			return err
		},
	} {
		n := &atomic.Int64{}
		calls[kind] = n
		for range 2 {
			running.Go(func() {
				for ctx.Err() == nil {
					if err := call(); err != nil && dcs.KindOf(err) != dcs.ErrNotFound && ctx.Err() == nil {
						t.Errorf("%s: %v", kind, err)
					}
					n.Add(1)
				}
			})
		}
	}
	for round := range 6 {
		f.set(func() { f.off, f.valid = round%2 == 0, "" })
		for kind, n := range calls {
			before := n.Load()
			require.Eventually(t, func() bool { return n.Load() >= before+4 }, time.Minute, time.Millisecond, kind)
		}
	}
	require.Positive(t, b.copy.Begins())
}
