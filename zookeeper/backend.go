package zookeeper

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/attempt"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/credentials"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
	"github.com/holdfast-dcs/holdfast/internal/watchcache"
	"github.com/holdfast-dcs/holdfast/keepalive"
)

// Backend is a client of one ZooKeeper ensemble: a [dcs.Backend] and a
// [dcs.Settler]. Give it to [dcs.New]. All methods are safe for concurrent use.
type Backend struct {
	c           Config
	root        string // with the slash before it
	pool        *endpoint.Pool
	commits     *attempt.Committer
	markers     backend.Markers
	copy        watchcache.Cache
	ident       backend.Identity
	minRevision watchcache.MinRevision
	known       known
	made        made
	dialer      *keepalive.Dialer
	learned     atomic.Pointer[limits]
	asking      chan struct{}    // held by who learns the limits
	mirrors     chan struct{}    // held by Snapshots of large trees
	asked       [2]time.Duration // what was learnt of them, under asking

	life    context.Context //nolint:containedctx // the Backend's end
	end     context.CancelCauseFunc
	closing sync.Once
	beside  errands // the library's calls, which may outlast their contexts, and ends of sessions

	links endpoint.Conns[*session] // that calls go through

	mu     sync.Mutex
	leases map[dcs.LeaseID]*lease

	retired backend.Cache[bool] // leases that are over
	servers backend.Cache[bool] // those that are older than ZooKeeper 3.6
}

var (
	_ dcs.Backend = (*Backend)(nil)
	_ dcs.Settler = (*Backend)(nil)
)

// New returns a client. It does no I/O: the first call does, within its
// budget. Settings that cannot work are ErrInvalid, all of them at once.
func New(c Config) (*Backend, error) {
	c, err := c.check()
	if err != nil {
		return nil, err
	}
	b := &Backend{c: c, root: "/" + c.Root, leases: map[dcs.LeaseID]*lease{}, asking: make(chan struct{}, 1), mirrors: make(chan struct{}, mostMirrors)}
	if c.limited() {
		l := c.limits()
		b.learned.Store(&l)
	}
	b.life, b.end = context.WithCancelCause(context.Background())
	derived, _ := keepalive.Derive(c.Timing.TTL, c.Timing.LoopWait)
	b.dialer = &keepalive.Dialer{Config: derived, Base: &net.Dialer{Resolver: c.Resolver}, Logger: c.Logger}
	b.markers = backend.Markers{Budget: c.Timing.RetryTimeout, Life: b.life, Grant: b.markerLease}
	b.pool = endpoint.New(endpoint.Options{
		Backend: backendName, Seeds: c.Endpoints, Budget: c.Timing.RetryTimeout,
		Judge: backend.Judge, Probe: b.probe, Logger: c.Logger, Observer: b.copy.Observer(c.Observer.Endpoint), HedgeFloor: hedgeFloor,
		DialsPerSecond: endpoint.LeaseDialsPerSecond, Lookup: endpoint.LookupBy(c.Resolver), Drop: b.leave,
	})
	b.ident = backend.Identity{
		Seeds: c.Endpoints, Pool: b.pool, Budget: c.Timing.RetryTimeout, Life: b.life, Logger: c.Logger, Ask: b.askIdentity,
	}
	b.links.Close, b.links.Grace, b.links.Known = (*session).goodbye, c.Timing.RetryTimeout, b.pool.Knows
	b.commits = attempt.New(transport{b}, backend.CommitOptions(b.pool, attempt.Options{
		Backend: backendName, Slots: c.Slots, ModifiedOnly: true, SettleReserve: c.Timing.RetryTimeout / settleShare,
	}))
	b.copy.Init(b.source())
	b.pool.Start()
	return b, nil
}

// hedgeFloor is longer than the Pool's own: a second copy may have to take a
// session to another server.
const hedgeFloor = 20 * time.Millisecond

// settleShare is the part of a budget that is kept for settling a Commit. It is
// less than the usual quarter: an election is to fit into what is left.
const settleShare = 8

// Name returns "zookeeper", for errors and logs.
func (b *Backend) Name() string { return backendName }

// Caps implements [dcs.Backend]. MinTTL and MaxTTL are what the servers grant,
// once that is known.
func (b *Backend) Caps() dcs.Caps { return b.limits().caps() }

// Endpoints are the addresses of Config, the best first.
func (b *Backend) Endpoints() []string { return b.pool.Endpoints() }

// Close implements [dcs.Backend]. The client's leases run out as those of a
// process that died; the one of its markers is given back.
func (b *Backend) Close() error {
	b.closing.Do(func() {
		b.markers.Close()
		b.mu.Lock()
		b.end(dcs.ErrClosed)
		var leases []*session
		for _, l := range b.leases {
			leases = append(leases, l.s)
		}
		b.mu.Unlock()
		for _, s := range leases {
			s.end(dcs.ErrClosed)
		}
		_ = b.commits.Close() // it has no error to return
		b.copy.Close()
		b.pool.Close()
		b.ident.Close()
		b.links.CloseAll()
		b.beside.wait()
	})
	return nil
}

// do makes a call that may be sent twice, at one server after the other.
func do[T any](ctx context.Context, b *Backend, class endpoint.Class, f func(ctx context.Context, addr string) (T, error)) (endpoint.Answer[T], error) {
	return doAt(ctx, b, class, func() string { return "" }, f)
}

// doAt is do for what is at one server already.
func doAt[T any](ctx context.Context, b *Backend, class endpoint.Class, at func() string, f func(ctx context.Context, addr string) (T, error)) (endpoint.Answer[T], error) {
	return endpoint.DoAt(ctx, b.pool, class, at, f)
}

// link returns the session that calls at one server go through. It holds
// nothing, so that another one takes its place when its connection breaks.
func (b *Backend) link(addr string) (*session, error) {
	live := func(s *session) bool { return s.ended() == nil }
	return b.links.Get(addr, live, func() (*session, error) {
		if b.life.Err() != nil {
			return nil, context.Cause(b.life)
		}
		return b.newSession(sessionOptions{ttl: b.linkTTL(), once: true})
	})
}

// linkTTL is how long a session of a process that died stays with the servers.
func (b *Backend) linkTTL() time.Duration {
	lim := b.limits()
	return min(max(b.c.Timing.TTL, lim.MinTTL), lim.MaxTTL)
}

// lease returns one that this Backend granted, nil for any other.
func (b *Backend) lease(id dcs.LeaseID) *lease {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.leases[id]
}

// markerLease grants the markers' lease: a session that the library keeps
// alive by itself.
func (b *Backend) markerLease(ctx context.Context, ttl time.Duration) (dcs.Lease, error) {
	if err := b.learn(ctx); err != nil {
		return nil, err
	}
	a, err := b.granted(ctx, ttl, sessionOptions{kept: true})
	if err != nil {
		return nil, err
	}
	return a.Value, nil
}

// dial connects to a server.
func (b *Backend) dial(ctx context.Context, addr string) (net.Conn, error) {
	if err := b.pool.AwaitDial(ctx); err != nil {
		return nil, err
	}
	at, err := b.pool.Address(ctx, addr)
	if err != nil {
		return nil, err
	}
	c, err := b.dialer.DialContext(ctx, "tcp", at)
	if err != nil {
		return nil, err
	}
	if b.c.dialled != nil {
		b.c.dialled(c)
	}
	if b.c.tls == nil {
		return c, nil
	}
	return credentials.Client(ctx, c, b.c.tls, endpoint.HostPort(addr))
}

// Get implements [dcs.Backend].
func (b *Backend) Get(ctx context.Context, key string) (dcs.Entry, error) {
	a, err := do(ctx, b, endpoint.Read, func(ctx context.Context, addr string) ([]dcs.Entry, error) {
		s, err := b.link(addr)
		if err != nil {
			return nil, err
		}
		v, _, err := call(ctx, s, addr, request{"Get", []string{key}}, func(c *zk.Conn) ([]dcs.Entry, error) {
			return proven(s, c, func() ([]dcs.Entry, error) { return b.plainly(c, []string{key}) })
		})
		return v, err
	})
	return backend.FirstEntry(backendName, key, a.Endpoint, a.Value, err)
}

// through makes a request in the session of one server's calls, and returns the
// connection, too.
func through[T any](ctx context.Context, b *Backend, addr string, r request, f func(c *zk.Conn) (T, error)) (T, *wire, error) {
	s, err := b.link(addr)
	if err != nil {
		var zero T
		return zero, nil, err
	}
	return call(ctx, s, addr, r, f)
}

// probe asks the quorum through one server, for the Pool. ZooKeeper does not
// tell clients which server leads.
func (b *Backend) probe(ctx context.Context, addr string) (leads bool, err error) {
	_, err = b.quorum(backend.Probing(ctx), addr, request{op: "Probe"})
	return false, err
}

// ready learns what the servers grant and asks for a key, for Open.
func (b *Backend) ready(ctx context.Context) error {
	if err := b.learn(ctx); err != nil {
		return backend.WrapError(backendName, "Open", "", "", err)
	}
	return backend.Readable(ctx, b)
}

// limits are what the servers grant; before that is known, what they do by
// default.
func (b *Backend) limits() limits {
	if l := b.learned.Load(); l != nil {
		return *l
	}
	return b.c.limits()
}

// learn asks the servers for the shortest and the longest session that they
// grant, once: what a session is asked for is moved between both in silence.
// Each time a session is made, which ends at once.
func (b *Backend) learn(ctx context.Context) error {
	select {
	case b.asking <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-b.asking }()
	if b.learned.Load() != nil {
		return nil
	}
	for i, ttl := range []time.Duration{time.Millisecond, longest} {
		if b.asked[i] > 0 {
			continue // by a call whose time was over then
		}
		a, err := do(ctx, b, endpoint.Write, func(ctx context.Context, addr string) (time.Duration, error) {
			return b.grants(ctx, addr, ttl)
		})
		if err != nil {
			return err
		}
		b.asked[i] = a.Value
	}
	lim := b.c.measured(b.asked[0], b.asked[1])
	b.learned.Store(&lim)
	b.c.Logger.Info("sessions as ZooKeeper grants them", "shortest", b.asked[0], "longest", b.asked[1], "tick", lim.tick)
	return nil
}

// grants is what one server grants who asks for ttl.
func (b *Backend) grants(ctx context.Context, addr string, ttl time.Duration) (granted time.Duration, err error) {
	if err := b.admitted(ctx, nil, addr); err != nil {
		return 0, err
	}
	err = b.c.tap(ctx, request{op: "Probe"}, nil, func(*zk.Conn) error {
		return b.aside(ctx, addr, func(c net.Conn) error {
			g, err := ask(c, newcomer(ttl), 0)
			switch {
			case err != nil:
				return err
			case g.refused:
				return errFrame
			}
			granted = g.timeout
			return endSession(c)
		})
	})
	return granted, err
}

// longest is asked for to learn what is granted.
const longest = 24 * time.Hour
