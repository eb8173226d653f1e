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
	hooks       hooks
	root        string // with a leading slash
	pool        *endpoint.Pool
	commits     *attempt.Committer
	markers     backend.Markers
	copy        watchcache.Cache
	ident       backend.Identity
	minRevision watchcache.MinRevision
	known       known
	made        made
	dialer      *keepalive.Dialer
	newer       announcement // of newer credentials
	learned     atomic.Pointer[limits]
	asking      chan struct{}    // held while a call learns the limits
	mirrors     chan struct{}    // held by Snapshots of large trees
	asked       [2]time.Duration // the limits learnt so far; under asking

	life  context.Context //nolint:containedctx // ends with the Backend
	end   context.CancelCauseFunc
	parts backend.Parts
	bg    background // the library's calls, which may outlast their contexts, and ends of sessions

	links endpoint.Conns[*session] // carry the calls

	mu     sync.Mutex
	leases map[dcs.LeaseID]*lease

	retired backend.Cache[bool] // leases that are over
	servers backend.Cache[bool] // that are older than ZooKeeper 3.6
}

var (
	_ dcs.Backend = (*Backend)(nil)
	_ dcs.Settler = (*Backend)(nil)
)

// New returns a client. It does no I/O. The first call connects, within its
// budget. New reports all invalid settings at once, as ErrInvalid.
func New(c Config) (*Backend, error) { return newBackend(c, hooks{}) }

// newBackend is New with hooks.
func newBackend(c Config, h hooks) (*Backend, error) {
	c, err := c.check()
	if err != nil {
		return nil, err
	}
	b := &Backend{
		c: c, hooks: h.withDefaults(), root: "/" + c.Root, leases: map[dcs.LeaseID]*lease{},
		asking: make(chan struct{}, 1), mirrors: make(chan struct{}, mostMirrors),
	}
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
	b.parts = backend.Parts{
		Markers: &b.markers, End: b.end, Leases: b.endLeases, Commits: b.commits, Copy: &b.copy, Pool: b.pool, Identity: &b.ident, Conns: &b.links,
	}
	b.pool.Start()
	return b, nil
}

// hedgeFloor is longer than the Pool's own, because a second copy may have to
// move a session to another server.
const hedgeFloor = 20 * time.Millisecond

// settleShare is the divisor of a budget for the part that is reserved for
// settling a Commit. That part is less than the usual quarter, so that an
// election fits into the rest.
const settleShare = 8

// Name returns "zookeeper", for errors and logs.
func (b *Backend) Name() string { return backendName }

// Caps implements [dcs.Backend]. MinTTL and MaxTTL are the limits that the
// servers grant, once they are known.
func (b *Backend) Caps() dcs.Caps { return b.limits().caps() }

// Endpoints returns the addresses of Config, the best first.
func (b *Backend) Endpoints() []string { return b.pool.Endpoints() }

// Close implements [dcs.Backend]. The client's leases expire like those of a
// process that died. The lease of its markers is revoked.
func (b *Backend) Close() error {
	b.parts.Close()
	b.bg.wait()
	return nil
}

// endLeases ends the sessions of the leases.
func (b *Backend) endLeases() {
	b.mu.Lock()
	var leases []*session
	for _, l := range b.leases {
		leases = append(leases, l.s)
	}
	b.mu.Unlock()
	for _, s := range leases {
		s.end(dcs.ErrClosed)
	}
}

// do makes a call that may be sent twice, and tries the servers one after the
// other.
func do[T any](ctx context.Context, b *Backend, class endpoint.Class, f func(ctx context.Context, addr string) (T, error)) (endpoint.Answer[T], error) {
	return doAt(ctx, b, class, func() string { return "" }, f)
}

// doAt is like do for a call that belongs to a session which is already at a
// server.
func doAt[T any](ctx context.Context, b *Backend, class endpoint.Class, at func() string, f func(ctx context.Context, addr string) (T, error)) (endpoint.Answer[T], error) {
	return backend.DoAt(ctx, b.pool, &b.ident, class, at, f)
}

// link returns the session for calls at one server. The session holds nothing,
// so that another one replaces it when its connection breaks.
func (b *Backend) link(addr string) (*session, error) {
	live := func(s *session) bool { return s.ended() == nil }
	return b.links.Get(addr, live, func() (*session, error) {
		if b.life.Err() != nil {
			return nil, context.Cause(b.life)
		}
		return b.newSession(sessionOptions{ttl: b.linkTTL(), once: true})
	})
}

// linkTTL returns how long the servers keep such a session after its process
// died.
func (b *Backend) linkTTL() time.Duration {
	lim := b.limits()
	return min(max(b.c.Timing.TTL, lim.MinTTL), lim.MaxTTL)
}

// lease returns a lease that this Backend granted, and nil for any other.
func (b *Backend) lease(id dcs.LeaseID) *lease {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.leases[id]
}

// markerLease grants the markers' lease, a session that the library keeps alive
// by itself.
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

// dial connects to a server as soon as the limit on dials allows it.
func (b *Backend) dial(ctx context.Context, addr string) (net.Conn, error) {
	if err := b.pool.AwaitDial(ctx); err != nil {
		return nil, err
	}
	return b.connect(ctx, addr)
}

// connect connects to a server.
func (b *Backend) connect(ctx context.Context, addr string) (net.Conn, error) {
	at, err := b.pool.Address(ctx, addr)
	if err != nil {
		return nil, err
	}
	c, err := b.dialer.DialContext(ctx, "tcp", at)
	if err != nil {
		return nil, err
	}
	b.hooks.dialled(c)
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
			return proven(s, c, func() ([]dcs.Entry, error) { return b.readEntries(c, []string{key}) })
		})
		return v, err
	})
	return backend.FirstEntry(backendName, key, a.Endpoint, a.Value, err)
}

// through makes a request in the session for calls at one server. It also
// returns the connection.
func through[T any](ctx context.Context, b *Backend, addr string, r request, f func(c *zk.Conn) (T, error)) (T, *trackedConn, error) {
	s, err := b.link(addr)
	if err != nil {
		var zero T
		return zero, nil, err
	}
	return call(ctx, s, addr, r, f)
}

// probe makes a request to the quorum through one server, for the Pool.
// ZooKeeper does not report to clients which server leads.
func (b *Backend) probe(ctx context.Context, addr string) (leads bool, err error) {
	_, err = b.quorum(backend.Probing(ctx), addr, request{op: "Probe"})
	return false, err
}

// ready learns the limits that the servers grant and reads a key, for Open.
func (b *Backend) ready(ctx context.Context) error {
	if err := b.learn(ctx); err != nil {
		return backend.WrapError(backendName, "Open", "", "", err)
	}
	return backend.Readable(ctx, b)
}

// limits returns the limits that the servers grant, and the servers' defaults
// until those are known.
func (b *Backend) limits() limits {
	if l := b.learned.Load(); l != nil {
		return *l
	}
	return b.c.limits()
}

// learn asks the servers once for the shortest and the longest session that
// they grant. A server limits the requested time of a session to these without
// an error. Each request makes a session, which is ended at once.
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
			continue // learnt by a call that then ran out of time
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
	b.c.Logger.Info("learned the session timeouts that ZooKeeper grants", "shortest", b.asked[0], "longest", b.asked[1], "tick", lim.tick)
	return nil
}

// grants asks one server for a session of ttl and returns the granted timeout.
func (b *Backend) grants(ctx context.Context, addr string, ttl time.Duration) (granted time.Duration, err error) {
	if err := b.admitted(ctx, nil, addr); err != nil {
		return 0, err
	}
	err = b.hooks.intercept(ctx, request{op: "Probe"}, nil, func(*zk.Conn) error {
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

// longest is requested to learn the longest session that is granted.
const longest = 24 * time.Hour
