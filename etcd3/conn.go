package etcd3

import (
	"context"
	"math"
	"net"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"

	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
	"github.com/holdfast-dcs/holdfast/keepalive"
)

// conn is the connection to one member. gRPC is configured so that it never repeats a
// call, neither on this member nor on another one (docs/decisions/0007).
type conn struct {
	b     *Backend
	addr  string
	cc    *grpc.ClientConn
	kv    pb.KVClient
	lease pb.LeaseClient
	watch pb.WatchClient
	admin pb.ClusterClient
	state pb.MaintenanceClient
	auth  pb.AuthClient

	renewals renewals
	cluster  atomic.Pointer[clusterName]
	dials    atomic.Uint64          // number of connections begun
	verified atomic.Uint64          // value of dials whose connection's cluster was verified
	version  atomic.Pointer[string] // the server's; nil until it was read on this connection
	member   atomic.Uint64          // id of the member that answered last

	logins backend.Flight[authToken]
	latest atomic.Pointer[authToken] // nil before the first login
	denied atomic.Uint64             // the login whose watch was denied
}

// connected returns the connection to addr, and creates it at the first use. It does
// no I/O.
func (b *Backend) connected(addr string) (*conn, error) {
	return b.conns.Get(addr, nil, func() (*conn, error) { return b.newConn(addr) })
}

func (b *Backend) newConn(addr string) (*conn, error) {
	if b.life.Err() != nil {
		return nil, context.Cause(b.life)
	}
	c := &conn{b: b, addr: addr}
	// The target is the name and not an address, because TLS verifies the name.
	cc, err := grpc.NewClient("passthrough:///"+endpoint.HostPort(addr), c.dialOptions()...)
	if err != nil {
		return nil, err
	}
	c.cc, c.kv, c.lease, c.watch = cc, pb.NewKVClient(cc), pb.NewLeaseClient(cc), pb.NewWatchClient(cc)
	c.admin, c.state, c.auth = pb.NewClusterClient(cc), pb.NewMaintenanceClient(cc), pb.NewAuthClient(cc)
	c.renewals.c = c
	return c, nil
}

// close closes the connection and ends its calls in flight.
func (c *conn) close() {
	c.renewals.drop(nil)
	c.cc.Close()
}

func (c *conn) dialOptions() []grpc.DialOption {
	b := c.b
	creds := insecure.NewCredentials()
	if b.c.tls != nil {
		creds = tlsAlertCreds{credentials.NewTLS(b.c.tls.Config()), b.c.tls}
	}
	derived, _ := keepalive.Derive(b.c.Timing.TTL, b.c.Timing.LoopWait)
	// Wrapped, because gRPC overwrites TCP_USER_TIMEOUT on a bare TCPConn.
	dialer := &keepalive.Dialer{Config: derived, Wrapped: true, Base: &net.Dialer{Resolver: b.c.Resolver}, Logger: b.c.Logger}
	// A member that comes back is reconnected within a second.
	params := grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
		MinConnectTimeout: min(b.c.Timing.RetryTimeout/2, 5*time.Second),
	}
	own := []grpc.DialOption{
		grpc.WithTransportCredentials(creds), grpc.WithNoProxy(), grpc.WithDisableRetry(), grpc.WithDisableServiceConfig(),
		grpc.WithConnectParams(params), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			at, err := b.pool.Address(ctx, c.addr)
			if err != nil {
				return nil, err
			}
			if !b.pool.AllowDial() {
				return nil, endpoint.ErrDials
			}
			c.version.Store(nil) // another server may listen at the address now
			c.dials.Add(1)
			nc, err := dialer.DialContext(ctx, "tcp", at)
			if err == nil {
				b.hooks.dialled(nc)
			}
			return nc, err
		}),
	}
	return slices.Concat(b.c.DialOptions, own)
}

// call makes one call at a member, and repeats it if its token had expired.
func call[T any](ctx context.Context, c *conn, f func(ctx context.Context, o ...grpc.CallOption) (T, error)) (T, error) {
	var zero T
	token, err := c.token(ctx)
	if err != nil {
		return zero, c.failed(ctx, err, false)
	}
	for n := 1; ; n++ {
		var to peer.Peer
		v, err := f(outgoing(ctx, token), grpc.Peer(&to))
		if err == nil {
			return v, nil
		}
		if to.Addr == nil {
			return zero, c.notSent(ctx, err)
		}
		if n == maxLogins || !c.staleToken(err) {
			return zero, c.failed(ctx, err, true)
		}
		if token, err = c.login(ctx, token); err != nil {
			return zero, c.failed(ctx, err, false)
		}
	}
}

// memberName returns the name of a member for the Pool. Empty means unknown.
func memberName(id uint64) string {
	if id == 0 {
		return ""
	}
	return strconv.FormatUint(id, 16)
}
