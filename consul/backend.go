package consul

import (
	"cmp"
	"context"
	"errors"
	"net"
	"slices"
	"strings"
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

// A Backend is a client of one Consul datacenter. It implements [dcs.Backend] and
// [dcs.Settler], and is passed to [dcs.New]. All methods are safe for concurrent use.
type Backend struct {
	c           Config
	hooks       hooks
	root        string // ends with a slash
	pool        *endpoint.Pool
	commits     *attempt.Committer
	markers     backend.Markers
	copy        watchcache.Cache
	ident       backend.Identity
	agents      datacenters
	dialer      *keepalive.Dialer
	polls       polling // used by one view at a time
	token       token
	minRevision watchcache.MinRevision
	minTTL      atomic.Int64
	known       bindings
	ownNode     atomic.Bool // the sessions' node is known not to belong to another root

	life  context.Context //nolint:containedctx // ends with the Backend
	end   context.CancelCauseFunc
	parts backend.Parts
	conns endpoint.Conns[*conn]
}

var (
	_ dcs.Backend = (*Backend)(nil)
	_ dcs.Settler = (*Backend)(nil)
)

// New returns a Backend. It does no I/O, apart from the lookup of Config.SRV. The first
// call connects, within its budget. If settings are invalid, the error is ErrInvalid and
// names all of them.
func New(c Config) (*Backend, error) { return newBackend(c, hooks{}) }

// newBackend is New with hooks.
func newBackend(c Config, h hooks) (*Backend, error) {
	c, err := c.check()
	if err != nil {
		return nil, err
	}
	if c.SRV != "" {
		if c.Endpoints, err = c.srv().Seeds(backendName, c.Timing.RetryTimeout); err != nil {
			return nil, err
		}
	}
	b := &Backend{c: c, hooks: h.withDefaults(), root: c.Root + "/"}
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
		c.Logger.Warn("sessions belong to the agent's node: sessions end when the agent leaves or is deregistered", "endpoint", c.Endpoints[0])
	}
	b.copy.Init(b.source())
	b.parts = backend.Parts{
		Markers: &b.markers, End: b.end, Commits: b.commits, Copy: &b.copy, Pool: b.pool, Identity: &b.ident, Conns: &b.conns,
	}
	b.pool.Start()
	return b, nil
}

// hedgeFloor is longer than the default of the Pool. Consul answers more slowly than
// etcd, and a second copy costs its servers more.
const hedgeFloor = 20 * time.Millisecond

// settleShare is the number of parts of a budget of which one is reserved for settling a
// Commit. The part is smaller than the usual quarter, because Consul's elections take
// long and must fit into the rest of the budget.
const settleShare = 8

// ofAgent reports whether sessions belong to the agent's own node.
func (b *Backend) ofAgent() bool { return b.c.Node == "" }

// Name returns "consul", the name of the backend in errors and logs.
func (b *Backend) Name() string { return backendName }

// Caps implements [dcs.Backend]. MinTTL is the servers' session_ttl_min once
// it is known.
func (b *Backend) Caps() dcs.Caps {
	c := b.c
	c.MinTTL = time.Duration(b.minTTL.Load())
	return c.caps()
}

// Endpoints returns the addresses of the endpoints, the best one first.
func (b *Backend) Endpoints() []string { return b.pool.Endpoints() }

// Close implements [dcs.Backend]. The client's leases expire like those of a process
// that died. The lease of its markers is revoked.
func (b *Backend) Close() error {
	b.parts.Close()
	return nil
}

// do makes a call that may be sent twice. It tries one endpoint after the other.
func do[T any](ctx context.Context, b *Backend, class endpoint.Class, f func(ctx context.Context, c *conn) (T, error)) (endpoint.Answer[T], error) {
	return backend.Do(ctx, b.pool, &b.ident, class, b.admitted, f)
}

func (b *Backend) entry(p *api.KVPair) dcs.Entry {
	return dcs.Entry{
		Key: strings.TrimPrefix(p.Key, b.root), Value: p.Value,
		Created: dcs.Revision(p.CreateIndex), Modified: dcs.Revision(p.ModifyIndex), Lease: dcs.LeaseID(p.Session),
	}
}

// listed has the entries of a read and the index from which a blocking query continues.
type listed struct {
	entries []dcs.Entry
	index   dcs.Revision
}

// list reads all keys that begin with prefix, consistently and at one index.
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

// listing returns the result of a list. It is an error if Consul left keys out because
// the token may not read them, since such keys are not absent.
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
	a, err := do(b.hooks.named(ctx, "Get"), b, endpoint.Read, func(ctx context.Context, c *conn) ([]dcs.Entry, error) {
		return b.read(ctx, c, key)
	})
	return backend.FirstEntry(backendName, key, a.Endpoint, a.Value, err)
}

// read reads keys consistently. Up to [maxReads] keys are read at one index. Absent keys
// are left out.
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

// readOne reads one key. Its request is cheaper than that of read, and accepts no key
// that begins or ends with a space.
func (b *Backend) readOne(ctx context.Context, c *conn, key string) ([]dcs.Entry, error) {
	return consistent(ctx, c, func(o *api.QueryOptions) ([]dcs.Entry, error) {
		p, _, err := c.api.KV().Get(b.root+key, o)
		if err != nil || p == nil {
			return nil, err
		}
		return []dcs.Entry{b.entry(p)}, nil
	})
}

// maxReads is the number of keys that one request reads. Consul accepts 128 operations.
const maxReads = 120

// Snapshot implements [dcs.Backend].
func (b *Backend) Snapshot(ctx context.Context, prefix string) (dcs.Snapshot, error) {
	return b.minRevision.Snapshot(backendName, prefix, func() (dcs.Snapshot, string, error) { return b.snapshot(b.hooks.named(ctx, "Snapshot"), prefix) })
}

// snapshot reads the tree. Consul's index is that of the last change below the prefix,
// and falls when Consul forgets the last deletion. The revision of the Snapshot is
// therefore at least the newest revision known before the read. For a part of the tree,
// snapshot reads the index of the whole tree first, so that the revision is not smaller
// than that of any Commit that returned before, also one outside the part.
func (b *Backend) snapshot(ctx context.Context, prefix string) (dcs.Snapshot, string, error) {
	floor := b.newest()
	a, err := do(ctx, b, endpoint.List, func(ctx context.Context, c *conn) (listed, error) {
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

// below leaves out entries that share the prefix with another path element, because
// Consul compares prefixes byte by byte.
func below(prefix string, entries []dcs.Entry) []dcs.Entry {
	if prefix != "" {
		entries = slices.DeleteFunc(entries, func(e dcs.Entry) bool {
			return e.Key != prefix && !strings.HasPrefix(e.Key, prefix+"/")
		})
	}
	return entries
}

// probe reads from the quorum through one endpoint. The Pool calls it. leads is always
// false, because a token needs more permissions to learn which endpoint leads.
func (b *Backend) probe(ctx context.Context, addr string) (leads bool, err error) {
	c, err := b.admitted(backend.Probing(ctx), addr)
	if err != nil {
		return false, err
	}
	ctx = b.hooks.named(ctx, "Probe")
	if _, err = b.top(ctx, c); err == nil {
		c.identify(ctx)
	}
	return false, err
}

// top reads the names at the top of the tree, which is a request to the quorum with an
// answer of constant size. It returns the index of the tree.
func (b *Backend) top(ctx context.Context, c *conn) (dcs.Revision, error) {
	before := b.newest()
	index, err := b.names(ctx, c, b.root)
	if err == nil {
		err = b.follows(ctx, c, before, index)
	}
	return index, err
}

// storeIndex returns the index of all keys in Consul, including deletions that Consul has
// forgotten. Consul answers with this index for a prefix without keys.
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

// ready reads the minimum session TTL, the sessions' node and a key. Open calls it. A
// token that may only read keys can open the store, too.
func (b *Backend) ready(ctx context.Context) error {
	if err := b.learnMinTTL(ctx); errors.Is(err, dcs.ErrUnauthorized) {
		b.c.Logger.Info("cannot determine the minimum session TTL: the token may not create sessions", "error", err)
	} else if err != nil {
		return err
	}
	if err := b.checkNodeAtOpen(ctx); err != nil {
		return err
	}
	return backend.Readable(ctx, b)
}
