package etcd3

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/attempt"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
	"github.com/holdfast-dcs/holdfast/internal/watchcache"
)

// A Backend is a client of one etcd cluster. It implements [dcs.Backend] and
// [dcs.Settler], and is passed to [dcs.New]. All methods are safe for concurrent use.
type Backend struct {
	c       Config
	hooks   hooks
	root    string // begins and ends with a slash
	pool    *endpoint.Pool
	commits *attempt.Committer
	markers backend.Markers
	copy    watchcache.Cache
	ident   backend.Identity

	life        context.Context //nolint:containedctx // ends with the Backend
	end         context.CancelCauseFunc
	parts       backend.Parts
	leader      atomic.Pointer[leadership]
	minRevision watchcache.MinRevision

	passwords passwords
	conns     endpoint.Conns[*conn]

	mu     sync.Mutex
	warned map[string]string // version named in the last warning, by address
}

var (
	_ dcs.Backend = (*Backend)(nil)
	_ dcs.Settler = (*Backend)(nil)
)

// New returns a Backend. It starts to connect in the background without waiting.
// The first call waits for the connection, within its budget. With Config.SRV, New
// looks the members up first. If settings are invalid, the error is ErrInvalid and
// names all of them.
func New(c Config) (*Backend, error) { return newBackend(c, hooks{}) }

// newBackend is New with hooks.
func newBackend(c Config, h hooks) (*Backend, error) {
	c, err := c.check()
	if err != nil {
		return nil, err
	}
	if c.SRV != "" && len(c.Endpoints) == 0 {
		if c.Endpoints, err = c.srv().Seeds(backendName, c.Timing.RetryTimeout); err != nil {
			return nil, err
		}
	}
	b := &Backend{c: c, hooks: h.withDefaults(), root: "/" + c.Root + "/", warned: map[string]string{}}
	b.passwords.secret = c.password
	b.life, b.end = context.WithCancelCause(context.Background())
	b.markers = backend.Markers{Budget: c.Timing.RetryTimeout, Life: b.life, Grant: b.markerLease}
	o := endpoint.Options{
		Backend: backendName, Seeds: c.Endpoints, Budget: c.Timing.RetryTimeout,
		Judge: backend.Judge, Probe: b.probe, Logger: c.Logger, Observer: b.copy.Observer(c.Observer.Endpoint),
		Lookup: endpoint.LookupBy(c.Resolver), Drop: b.conns.Drop,
	}
	switch {
	case !c.NoDiscovery:
		o.Topology = b.members
	case c.SRV != "":
		o.Topology = endpoint.Unidentified(c.srv().LookUp)
	}
	b.pool = endpoint.New(o)
	b.ident = backend.Identity{
		Seeds: c.Endpoints, Pool: b.pool, Budget: c.Timing.RetryTimeout, Life: b.life, Logger: c.Logger, Ask: b.askIdentity,
	}
	b.conns.Close, b.conns.Grace, b.conns.Known = (*conn).close, c.Timing.RetryTimeout, b.pool.Knows
	b.commits = attempt.New(transport{b}, backend.CommitOptions(b.pool, attempt.Options{Backend: backendName, Slots: c.Slots}))
	b.copy.Init(b.source())
	b.parts = backend.Parts{
		Markers: &b.markers, End: b.end, Commits: b.commits, Copy: &b.copy, Pool: b.pool, Identity: &b.ident, Conns: &b.conns,
	}
	b.pool.Start()
	return b, nil
}

// Name returns "etcd3", the name of the backend in errors and logs.
func (b *Backend) Name() string { return backendName }

// Caps implements [dcs.Backend]. etcd grants whole seconds and raises a TTL below
// one and a half times its election timeout. The Renewal has the granted TTL.
func (b *Backend) Caps() dcs.Caps { return caps }

// Endpoints returns the known addresses of the members, the best one first.
func (b *Backend) Endpoints() []string { return b.pool.Endpoints() }

// Close implements [dcs.Backend]. The client's leases expire like those of a process
// that died. The lease of its markers is revoked.
func (b *Backend) Close() error {
	b.parts.Close()
	return nil
}

// physical returns the name of key in etcd.
func (b *Backend) physical(key string) []byte { return []byte(b.root + key) }

func (b *Backend) entry(p *mvccpb.KeyValue) dcs.Entry {
	return dcs.Entry{
		Key: strings.TrimPrefix(string(p.Key), b.root), Value: p.Value,
		Created: revision(p.CreateRevision), Modified: revision(p.ModRevision), Lease: leaseID(p.Lease),
	}
}

func revision(r int64) dcs.Revision { return dcs.Revision(r) }

// do makes a call that may be sent twice. It tries one member after the other.
func do[T any](ctx context.Context, b *Backend, class endpoint.Class, f func(ctx context.Context, c *conn) (T, error)) (endpoint.Answer[T], error) {
	return backend.Do(ctx, b.pool, &b.ident, class, b.admitted, f)
}

// read reads ranges linearizably and at one revision.
func (b *Backend) read(ctx context.Context, c *conn, ranges ...*pb.RangeRequest) ([]*pb.RangeResponse, *pb.ResponseHeader, error) {
	before := b.copy.Latest()
	if len(ranges) == 1 {
		r, err := call(ctx, c, func(ctx context.Context, o ...grpc.CallOption) (*pb.RangeResponse, error) {
			return c.kv.Range(ctx, ranges[0], o...)
		})
		if err != nil {
			return nil, nil, err
		}
		return []*pb.RangeResponse{r}, r.Header, b.follows(c, before, r.Header)
	}
	txn := &pb.TxnRequest{Success: asOps(ranges)}
	r, err := call(ctx, c, func(ctx context.Context, o ...grpc.CallOption) (*pb.TxnResponse, error) {
		return c.kv.Txn(ctx, txn, o...)
	})
	if err != nil {
		return nil, nil, err
	}
	return ranged(r.Responses), r.Header, b.follows(c, before, r.Header)
}

// asOps returns reads as the operations of a transaction.
func asOps(ranges []*pb.RangeRequest) []*pb.RequestOp {
	out := make([]*pb.RequestOp, len(ranges))
	for i, r := range ranges {
		out[i] = &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
	}
	return out
}

// ranged returns the results of the reads of a transaction.
func ranged(steps []*pb.ResponseOp) []*pb.RangeResponse {
	out := make([]*pb.RangeResponse, len(steps))
	for i, s := range steps {
		out[i] = s.GetResponseRange()
	}
	return out
}

// Get implements [dcs.Backend].
func (b *Backend) Get(ctx context.Context, key string) (dcs.Entry, error) {
	a, err := do(b.hooks.named(ctx, "Get"), b, endpoint.Read, func(ctx context.Context, c *conn) ([]*pb.RangeResponse, error) {
		r, _, err := b.read(ctx, c, &pb.RangeRequest{Key: b.physical(key)})
		return r, err
	})
	var entries []dcs.Entry
	if err == nil {
		for _, kv := range a.Value[0].Kvs {
			entries = append(entries, b.entry(kv))
		}
	}
	return backend.FirstEntry(backendName, key, a.Endpoint, entries, err)
}

// Snapshot implements [dcs.Backend]. It rejects an answer that is older than one which
// arrived earlier, because an answer can be delayed.
func (b *Backend) Snapshot(ctx context.Context, prefix string) (dcs.Snapshot, error) {
	return b.minRevision.Snapshot(backendName, prefix, func() (dcs.Snapshot, string, error) {
		return b.snapshot(b.hooks.named(ctx, "Snapshot"), prefix)
	})
}

func (b *Backend) snapshot(ctx context.Context, prefix string) (dcs.Snapshot, string, error) {
	type answer struct {
		ranges []*pb.RangeResponse
		header *pb.ResponseHeader
	}
	a, err := do(ctx, b, endpoint.List, func(ctx context.Context, c *conn) (answer, error) {
		r, h, err := b.read(ctx, c, b.ranges(prefix)...)
		return answer{r, h}, err
	})
	if err != nil {
		return dcs.Snapshot{}, a.Endpoint, err
	}
	return dcs.Snapshot{Revision: revision(a.Value.header.Revision), Entries: b.entries(a.Value.ranges)}, a.Endpoint, nil
}

// ranges returns the ranges of prefix itself and of all keys below it. The second one
// ends at the character after "/", so that it has "a/b" but neither "ab" nor "a-b".
func (b *Backend) ranges(prefix string) []*pb.RangeRequest {
	if prefix == "" {
		return []*pb.RangeRequest{{Key: []byte(b.root), RangeEnd: below(b.root)}}
	}
	dir := b.root + prefix + "/"
	return []*pb.RangeRequest{{Key: b.physical(prefix)}, {Key: []byte(dir), RangeEnd: below(dir)}}
}

func below(dir string) []byte { return []byte(dir[:len(dir)-1] + "0") }

// probe reads from the quorum through one member. The Pool calls it.
func (b *Backend) probe(ctx context.Context, addr string) (leads bool, err error) {
	ctx = backend.Probing(b.hooks.named(ctx, "Probe"))
	c, err := b.admitted(ctx, addr)
	if err != nil {
		return false, err
	}
	_, h, err := b.read(ctx, c, &pb.RangeRequest{Key: []byte(b.root), KeysOnly: true})
	if err != nil {
		return false, err
	}
	if known := b.leader.Load(); known != nil && known.term == h.RaftTerm && c.version.Load() != nil {
		return known.member == h.MemberId, nil
	}
	s, err := c.status(ctx)
	if err != nil {
		return false, err
	}
	if s.Leader != 0 {
		b.leader.Store(&leadership{s.Header.RaftTerm, s.Leader})
	}
	return s.Leader == s.Header.MemberId, nil
}

// leadership is the leader of etcd in a term.
type leadership struct{ term, member uint64 }

// members returns the addresses of all members that serve clients. The Pool calls it.
func (b *Backend) members(ctx context.Context) ([]endpoint.Listed, error) {
	a, err := do(ctx, b, endpoint.Read, func(ctx context.Context, c *conn) (*pb.MemberListResponse, error) {
		r, err := call(ctx, c, func(ctx context.Context, o ...grpc.CallOption) (*pb.MemberListResponse, error) {
			return c.admin.MemberList(ctx, &pb.MemberListRequest{Linearizable: true}, o...)
		})
		if err != nil {
			return nil, err
		}
		return r, b.seen(c, r.Header)
	})
	if err != nil {
		return nil, err
	}
	var out []endpoint.Listed
	for _, m := range a.Value.Members {
		if m.IsLearner {
			continue
		}
		for _, u := range m.ClientURLs {
			if addr, ok := clientAddress(u, b.c.tls != nil); ok {
				out = append(out, endpoint.Listed{Endpoint: addr, Server: memberName(m.ID)})
			}
		}
	}
	slices.SortFunc(out, func(a, b endpoint.Listed) int { return cmp.Compare(a.Endpoint, b.Endpoint) })
	return out, nil
}

// clientAddress returns the host:port of a member's URL, and whether the URL can be
// used: its scheme must be https with tls and http without.
func clientAddress(url string, tls bool) (string, bool) {
	scheme, rest, ok := strings.Cut(url, "://")
	if !ok || (scheme == "https") != tls || scheme != "http" && scheme != "https" {
		return "", false
	}
	addrs, err := dcs.ParseHosts([]string{strings.TrimSuffix(rest, "/")}, defaultPort)
	if err != nil {
		return "", false
	}
	return addrs[0], true
}

// ready reads from the store once. Open calls it.
func (b *Backend) ready(ctx context.Context) error {
	return backend.Readable(ctx, b)
}
