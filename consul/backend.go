package consul

import (
	"cmp"
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/attempt"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
	"github.com/holdfast-dcs/holdfast/internal/watchcache"
	"github.com/holdfast-dcs/holdfast/keepalive"
)

// Backend is a client of one Consul datacenter: a [dcs.Backend] and a
// [dcs.Settler]. Give it to [dcs.New]. All methods are safe for concurrent use.
type Backend struct {
	c           Config
	root        string // with its slash
	pool        *endpoint.Pool
	commits     *attempt.Committer
	markers     backend.Markers
	copy        watchcache.Cache
	ident       backend.Identity
	dialer      *keepalive.Dialer
	polls       polling // by the one view at a time
	token       token
	minRevision watchcache.MinRevision
	minTTL      atomic.Int64
	known       bindings
	ownNode     atomic.Bool // the sessions' node is known not to be another root's

	life    context.Context //nolint:containedctx // the Backend's end
	end     context.CancelCauseFunc
	closing sync.Once
	conns   endpoint.Conns[*conn]
}

var (
	_ dcs.Backend = (*Backend)(nil)
	_ dcs.Settler = (*Backend)(nil)
)

// New returns a client. It does no I/O, apart from the lookup of Config.SRV: the
// first call does, within its budget. Settings that cannot work are ErrInvalid, all of them at once.
func New(c Config) (*Backend, error) {
	c, err := c.check()
	if err != nil {
		return nil, err
	}
	if c.SRV != "" {
		if c.Endpoints, err = c.srv().Seeds(backendName, c.Timing.RetryTimeout); err != nil {
			return nil, err
		}
	}
	b := &Backend{c: c, root: c.Root + "/"}
	b.minTTL.Store(int64(c.MinTTL))
	b.life, b.end = context.WithCancelCause(context.Background())
	b.token = token{secret: c.token, value: c.token.Current()}
	derived, _ := keepalive.Derive(c.Timing.TTL, c.Timing.LoopWait)
	b.dialer = &keepalive.Dialer{Config: derived, Base: &net.Dialer{Resolver: c.Resolver}, Logger: c.Logger}
	b.markers = backend.Markers{Budget: c.Timing.RetryTimeout, Life: b.life, Grant: b.markerLease}
	o := endpoint.Options{
		Backend: backendName, Seeds: c.Endpoints, Budget: c.Timing.RetryTimeout,
		Judge: backend.Judge, Probe: b.probe, Logger: c.Logger, Observer: b.copy.Observer(c.Observer.Endpoint), HedgeFloor: hedgeFloor,
		Lookup: endpoint.LookupBy(c.Resolver), Drop: b.conns.Drop,
	}
	if c.SRV != "" {
		o.Topology = endpoint.Unidentified(c.srv().LookUp)
	}
	b.pool = endpoint.New(o)
	b.ident = backend.Identity{
		Seeds: c.Endpoints, Pool: b.pool, Budget: c.Timing.RetryTimeout, Life: b.life, Logger: c.Logger, Ask: b.askIdentity,
	}
	b.conns.Close, b.conns.Grace, b.conns.Known = (*conn).close, c.Timing.RetryTimeout, b.pool.Knows
	b.commits = attempt.New(transport{b}, backend.CommitOptions(b.pool, attempt.Options{
		Backend: backendName, Slots: c.Slots, ModifiedOnly: true, SettleReserve: c.Timing.RetryTimeout / settleShare,
	}))
	if b.ofAgent() {
		c.Logger.Warn("sessions belong to the agent's node: they end when it leaves or is deregistered", "endpoint", c.Endpoints[0])
	}
	b.copy.Init(b.source())
	b.pool.Start()
	return b, nil
}

// hedgeFloor is longer than the Pool's own: Consul's answers are slower, and a
// second copy costs it more, than etcd's.
const hedgeFloor = 20 * time.Millisecond

// settleShare is the part of a budget that is kept for settling a Commit. It is
// less than the usual quarter: Consul's elections take long, and are to fit
// into what is left.
const settleShare = 8

// ofAgent reports whether sessions belong to the agent's own node.
func (b *Backend) ofAgent() bool { return b.c.Node == "" }

// Name returns "consul", for errors and logs.
func (b *Backend) Name() string { return backendName }

// Caps implements [dcs.Backend]. MinTTL is the servers' session_ttl_min once
// it is known.
func (b *Backend) Caps() dcs.Caps {
	c := b.c
	c.MinTTL = time.Duration(b.minTTL.Load())
	return c.caps()
}

// Endpoints are the addresses of Config, the best first.
func (b *Backend) Endpoints() []string { return b.pool.Endpoints() }

// Close implements [dcs.Backend]. The client's leases run out as those of a
// process that died; the one of its markers is given back.
func (b *Backend) Close() error {
	b.closing.Do(func() {
		b.markers.Close()
		b.end(dcs.ErrClosed)
		_ = b.commits.Close() // it has no error to return
		b.copy.Close()
		b.pool.Close()
		b.ident.Close()
		b.conns.CloseAll()
	})
	return nil
}

// do makes a call that may be sent twice, at one endpoint after the other.
func do[T any](ctx context.Context, b *Backend, class endpoint.Class, f func(ctx context.Context, c *conn) (T, error)) (endpoint.Answer[T], error) {
	return endpoint.Do(ctx, b.pool, class, func(ctx context.Context, addr string) (T, error) {
		c, err := b.admitted(ctx, addr)
		if err != nil {
			var zero T
			return zero, err
		}
		return f(ctx, c)
	})
}

func (b *Backend) entry(p *api.KVPair) dcs.Entry {
	return dcs.Entry{
		Key: strings.TrimPrefix(p.Key, b.root), Value: p.Value,
		Created: dcs.Revision(p.CreateIndex), Modified: dcs.Revision(p.ModifyIndex), Lease: dcs.LeaseID(p.Session),
	}
}

// listed is what a read brought, with the index that a blocking query goes on
// from.
type listed struct {
	entries []dcs.Entry
	index   dcs.Revision
}

// list reads everything whose key begins with prefix, consistently and at one
// moment.
func (b *Backend) list(ctx context.Context, c *conn, prefix string) (listed, error) {
	before := b.newest()
	l, err := consistent(ctx, c, func(o *api.QueryOptions) (listed, error) {
		pairs, meta, err := c.api.KV().List(b.root+prefix, o)
		if err != nil {
			return listed{}, err
		}
		return b.listing(pairs, meta)
	})
	if err == nil && prefix == "" {
		err = b.follows(ctx, c, before, l.index)
	}
	return l, err
}

// listing is what a list brought. What Consul hides from the token is not
// absent.
func (b *Backend) listing(pairs api.KVPairs, meta *api.QueryMeta) (listed, error) {
	switch {
	case meta.ResultsFilteredByACLs:
		return listed{}, errHidden
	case meta.LastIndex == 0:
		return listed{}, errNoIndex
	}
	l := listed{index: dcs.Revision(meta.LastIndex), entries: make([]dcs.Entry, 0, len(pairs))}
	for _, p := range pairs {
		l.entries = append(l.entries, b.entry(p))
	}
	return l, nil
}

// Get implements [dcs.Backend].
func (b *Backend) Get(ctx context.Context, key string) (dcs.Entry, error) {
	a, err := do(b.c.name(ctx, "Get"), b, endpoint.Read, func(ctx context.Context, c *conn) ([]dcs.Entry, error) {
		return b.read(ctx, c, key)
	})
	return backend.FirstEntry(backendName, key, a.Endpoint, a.Value, err)
}

// read reads keys, consistently and at one moment; those that are absent are
// left out.
func (b *Backend) read(ctx context.Context, c *conn, keys ...string) ([]dcs.Entry, error) {
	if len(keys) > maxReads {
		first, err := b.read(ctx, c, keys[:maxReads]...)
		if err != nil {
			return nil, err
		}
		rest, err := b.read(ctx, c, keys[maxReads:]...)
		return append(first, rest...), err
	}
	if len(keys) == 1 {
		if key := keys[0]; strings.TrimSpace(key) == key { //nolint:gosec // G602: it has one
			return b.readOne(ctx, c, key)
		}
	}
	ops := make(api.KVTxnOps, 0, len(keys))
	for _, k := range backend.Unique(keys) {
		ops = append(ops, &api.KVTxnOp{Verb: api.KVGetOrEmpty, Key: b.root + k})
	}
	return consistent(ctx, c, func(o *api.QueryOptions) ([]dcs.Entry, error) {
		ok, resp, _, err := c.api.KV().Txn(ops, o)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, cmp.Or(deniedIn(resp.Errors), refusedRead(c, resp))
		}
		var out []dcs.Entry
		for _, p := range resp.Results {
			if p != nil && p.CreateIndex > 0 {
				out = append(out, b.entry(p))
			}
		}
		return out, nil
	})
}

// readOne is read for one key, by the cheaper request, which takes no key that
// begins or ends with a space.
func (b *Backend) readOne(ctx context.Context, c *conn, key string) ([]dcs.Entry, error) {
	return consistent(ctx, c, func(o *api.QueryOptions) ([]dcs.Entry, error) {
		p, _, err := c.api.KV().Get(b.root+key, o)
		if err != nil || p == nil {
			return nil, err
		}
		return []dcs.Entry{b.entry(p)}, nil
	})
}

// maxReads is how many keys one request reads: Consul takes 128 operations.
const maxReads = 120

// Snapshot implements [dcs.Backend].
func (b *Backend) Snapshot(ctx context.Context, prefix string) (dcs.Snapshot, error) {
	return b.minRevision.Snapshot(backendName, prefix, func() (dcs.Snapshot, string, error) { return b.snapshot(b.c.name(ctx, "Snapshot"), prefix) })
}

// snapshot reads the tree. Consul's index is that of the last change below the
// prefix, and falls when it forgets the last deletion: what is read after a
// revision was known is not older than that. Of a part of the tree the index
// of the whole is asked first, so that no Commit's revision that was returned
// before is larger, whatever that wrote.
func (b *Backend) snapshot(ctx context.Context, prefix string) (dcs.Snapshot, string, error) {
	floor := b.newest()
	a, err := do(ctx, b, endpoint.Read, func(ctx context.Context, c *conn) (listed, error) {
		if prefix == "" {
			return b.list(ctx, c, prefix)
		}
		whole, err := b.top(ctx, c)
		if err != nil {
			return listed{}, err
		}
		l, err := b.list(ctx, c, prefix)
		l.index = max(l.index, whole)
		return l, err
	})
	if err != nil {
		return dcs.Snapshot{}, a.Endpoint, err
	}
	return dcs.Snapshot{Revision: max(a.Value.index, floor), Entries: below(prefix, a.Value.entries)}, a.Endpoint, nil
}

// below leaves out what only begins like prefix: Consul knows no parts of keys.
func below(prefix string, entries []dcs.Entry) []dcs.Entry {
	if prefix != "" {
		entries = slices.DeleteFunc(entries, func(e dcs.Entry) bool {
			return e.Key != prefix && !strings.HasPrefix(e.Key, prefix+"/")
		})
	}
	return entries
}

// probe asks the quorum through one endpoint, for the Pool. Consul does not
// tell which endpoint leads without more rights.
func (b *Backend) probe(ctx context.Context, addr string) (leads bool, err error) {
	c, err := b.admitted(backend.Probing(ctx), addr)
	if err != nil {
		return false, err
	}
	ctx = b.c.name(ctx, "Probe")
	if _, err = b.top(ctx, c); err == nil {
		c.identify(ctx)
	}
	return false, err
}

// top asks for the names at the top of the tree: a question of constant size,
// answered by the quorum, that brings the tree's index.
func (b *Backend) top(ctx context.Context, c *conn) (dcs.Revision, error) {
	before := b.newest()
	index, err := b.names(ctx, c, b.root)
	if err == nil {
		err = b.follows(ctx, c, before, index)
	}
	return index, err
}

// storeIndex is the index of all keys in Consul, deletions of which it has
// forgotten among them: it answers with that where there is nothing.
func (b *Backend) storeIndex(ctx context.Context, c *conn) (dcs.Revision, error) {
	return b.names(ctx, c, b.root+".none/")
}

func (b *Backend) names(ctx context.Context, c *conn, prefix string) (dcs.Revision, error) {
	return consistent(ctx, c, func(o *api.QueryOptions) (dcs.Revision, error) {
		_, meta, err := c.api.KV().Keys(prefix, "/", o)
		switch {
		case err != nil:
			return 0, err
		case meta.LastIndex == 0:
			return 0, errNoIndex
		}
		return dcs.Revision(meta.LastIndex), nil
	})
}

// ready asks for the shortest session, the sessions' node and a key, for Open. A
// token that may only read keys may open the store too.
func (b *Backend) ready(ctx context.Context) error {
	if err := b.learnMinTTL(ctx); errors.Is(err, dcs.ErrUnauthorized) {
		b.c.Logger.Info("the shortest session is not known: the token may make none", "error", err)
	} else if err != nil {
		return err
	}
	if err := b.checkNodeAtOpen(ctx); err != nil {
		return err
	}
	return backend.Readable(ctx, b)
}
