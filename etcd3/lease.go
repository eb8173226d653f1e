package etcd3

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
	"github.com/holdfast-dcs/holdfast/internal/expiry"
)

// A lease is an etcd lease.
type lease struct {
	b      *Backend
	number int64
}

// leaseID returns the ID of the lease with the given number. 0 means no lease.
func leaseID(number int64) dcs.LeaseID {
	if number == 0 {
		return ""
	}
	return dcs.LeaseID(strconv.FormatInt(number, 16))
}

// leaseNumber returns the number of the lease id. If id is not of this package, the
// number is one that etcd never gives to a lease.
func leaseNumber(id dcs.LeaseID) int64 {
	if id == "" {
		return 0
	}
	n, err := strconv.ParseInt(string(id), 16, 64)
	if err != nil || n <= 0 {
		return -1
	}
	return n
}

// granted is the outcome of a grant.
type granted struct {
	*lease
	endpoint string
	clear    bool // with an error: the lease was not granted and never will be
}

// Grant implements [dcs.Backend]. The client chooses the id, so that a Grant can be sent
// again. A lease whose Grant stays unclear expires by itself.
func (b *Backend) Grant(ctx context.Context, ttl time.Duration) (dcs.Lease, dcs.Renewal, error) {
	g, r, err := b.grant(ctx, ttl)
	if err != nil {
		return nil, dcs.Renewal{}, backend.WrapGrantError(backendName, g.endpoint, g.clear, err)
	}
	return g.lease, r, nil
}

func (b *Backend) grant(ctx context.Context, ttl time.Duration) (granted, dcs.Renewal, error) {
	var random [8]byte
	if _, err := rand.Read(random[:]); err != nil {
		return granted{clear: true}, dcs.Renewal{}, err
	}
	id := int64(binary.LittleEndian.Uint64(random[:])>>2) + 1
	seconds := int64((min(max(ttl, minTTL), maxTTL) + time.Second - 1) / time.Second)
	var unanswered, full atomic.Int64 // copies
	a, err := do(b.hooks.named(ctx, "Grant"), b, endpoint.Write, func(ctx context.Context, c *conn) (int64, error) {
		unanswered.Add(1)
		r, err := call(ctx, c, func(ctx context.Context, o ...grpc.CallOption) (*pb.LeaseGrantResponse, error) {
			return c.lease.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: id, TTL: seconds}, o...)
		})
		if is(err, rpctypes.ErrGRPCLeaseExist) {
			return b.grantedTTL(ctx, c, id)
		}
		if errors.Is(err, errNoSpace) {
			full.Add(1)
		}
		if err != nil {
			if backend.Judge(err).Refused || errors.Is(err, errNoSpace) {
				unanswered.Add(-1)
			}
			return 0, err
		}
		return r.TTL, b.seen(c, r.Header)
	})
	g := granted{&lease{b, id}, a.Endpoint, unanswered.Load() == 0}
	switch {
	case err == nil:
		return g, g.renewal(a.First, a.Value), nil // P1: the sending of the first copy
	case full.Load() > 0 && g.Revoke(ctx) != nil:
		g.clear = false
	}
	return g, dcs.Renewal{}, err
}

// markerLease grants the lease of the markers.
func (b *Backend) markerLease(ctx context.Context, ttl time.Duration) (dcs.Lease, error) {
	g, _, err := b.grant(ctx, ttl)
	if err != nil {
		return nil, err
	}
	return g.lease, nil
}

// grantedTTL returns the TTL that an earlier copy of a Grant was granted.
func (b *Backend) grantedTTL(ctx context.Context, c *conn, id int64) (int64, error) {
	r, err := call(ctx, c, func(ctx context.Context, o ...grpc.CallOption) (*pb.LeaseTimeToLiveResponse, error) {
		return c.lease.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: id}, o...)
	})
	if err != nil {
		return 0, err
	}
	if r.GrantedTTL <= 0 {
		return 0, &backend.Failure{Endpoint: c.addr, Err: errors.New("the lease was granted by an earlier copy of the request and does not exist any more")}
	}
	return r.GrantedTTL, b.seen(c, r.Header)
}

func (l *lease) renewal(from dcs.Instant, seconds int64) dcs.Renewal {
	ttl := time.Duration(min(seconds, int64(maxTTL/time.Second))) * time.Second
	r := dcs.Renewal{From: from, TTL: ttl, Expiry: ttl}
	if ttl < maxTTL {
		r.Expiry = expiry.Etcd3(ttl)
	}
	return r
}

// ID implements [dcs.Lease].
func (l *lease) ID() dcs.LeaseID { return leaseID(l.number) }

// Renew implements [dcs.Lease].
func (l *lease) Renew(ctx context.Context, keys ...string) (dcs.Renewal, error) {
	ranges := l.b.exactly(keys)
	if len(ranges) == 0 {
		ranges = []*pb.RangeRequest{{Key: []byte(l.b.root), KeysOnly: true}}
	}
	a, err := do(l.b.hooks.named(ctx, "Renew"), l.b, endpoint.Renew, func(ctx context.Context, c *conn) (dcs.Renewal, error) {
		return l.confirm(ctx, c, ranges, len(keys) > 0)
	})
	if err != nil {
		return dcs.Renewal{}, backend.WrapError(backendName, "Renew", "", a.Endpoint, err)
	}
	return a.Value, nil
}

// confirm renews at one member. The answer counts only together with a linearizable
// read that was sent after the renewal and came back from the same term (P2). Then no
// newer leader existed before the renewal was sent, and any later leader restarts the
// TTL of the lease. The answer that the lease does not exist counts under the same
// condition, and only if it is given twice: the second time the member has caught up
// with the read.
func (l *lease) confirm(ctx context.Context, c *conn, ranges []*pb.RangeRequest, wanted bool) (dcs.Renewal, error) {
	gone := false
	for tokens := 1; ; {
		from := dcs.Now() // P1
		answer, read, header, err := l.ask(ctx, c, ranges)
		if errors.Is(err, errNewToken) && tokens < maxLogins {
			tokens++
			continue
		}
		if err != nil {
			return dcs.Renewal{}, err
		}
		if answer.Header.RaftTerm != header.RaftTerm { // P2
			return dcs.Renewal{}, &backend.Failure{Endpoint: c.addr, Err: errTerm}
		}
		if answer.TTL > 0 {
			r := l.renewal(from, answer.TTL)
			if wanted {
				r.Entries = l.b.entries(read)
				slices.SortFunc(r.Entries, func(a, b dcs.Entry) int { return cmp.Compare(a.Key, b.Key) })
			}
			return r, nil
		}
		if gone {
			return dcs.Renewal{}, &backend.Failure{Endpoint: c.addr, Kind: dcs.ErrLost, Err: fmt.Errorf("lease %s does not exist in etcd", l.ID())}
		}
		gone = true
	}
}

// ask sends the renewal, then the read (P2), and returns both answers.
func (l *lease) ask(ctx context.Context, c *conn, ranges []*pb.RangeRequest) (*pb.LeaseKeepAliveResponse, []*pb.RangeResponse, *pb.ResponseHeader, error) {
	sent, err := c.renewals.send(ctx, l.number)
	if err != nil {
		return nil, nil, nil, err
	}
	read, header, err := l.b.readChunks(ctx, c, ranges)
	if err != nil {
		c.renewals.drop(sent.s)
		return nil, nil, nil, err
	}
	answer, err := sent.wait(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	return answer, read, header, l.b.seen(c, answer.Header)
}

// chunksAtOnce bounds the reads of one renewal that are in flight at a time.
const chunksAtOnce = 8

// readChunks reads ranges in parts that etcd accepts in one transaction. Each part is
// linearizable. All of them must come back from one term, and the header of the first
// one is returned (P2).
func (b *Backend) readChunks(ctx context.Context, c *conn, ranges []*pb.RangeRequest) ([]*pb.RangeResponse, *pb.ResponseHeader, error) {
	type part struct {
		read   []*pb.RangeResponse
		header *pb.ResponseHeader
		err    error
	}
	chunks := slices.Collect(slices.Chunk(ranges, maxTxnOps))
	parts := make([]part, len(chunks))
	var next atomic.Int64
	var readers sync.WaitGroup
	read := func() {
		for i := next.Add(1) - 1; i < int64(len(chunks)); i = next.Add(1) - 1 {
			p := &parts[i]
			p.read, p.header, p.err = b.read(ctx, c, chunks[i]...)
		}
	}
	for range min(len(chunks), chunksAtOnce) - 1 {
		readers.Go(read)
	}
	read()
	readers.Wait()
	var all []*pb.RangeResponse
	for _, p := range parts {
		if p.err != nil {
			return nil, nil, p.err
		}
		if p.header.RaftTerm != parts[0].header.RaftTerm { // P2
			return nil, nil, &backend.Failure{Endpoint: c.addr, Err: errTerm}
		}
		all = append(all, p.read...)
	}
	return all, parts[0].header, nil
}

// Revoke implements [dcs.Lease].
func (l *lease) Revoke(ctx context.Context) error {
	a, err := do(l.b.hooks.named(ctx, "Revoke"), l.b, endpoint.Write, func(ctx context.Context, c *conn) (struct{}, error) {
		r, err := call(ctx, c, func(ctx context.Context, o ...grpc.CallOption) (*pb.LeaseRevokeResponse, error) {
			return c.lease.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: l.number}, o...)
		})
		switch {
		case is(err, rpctypes.ErrGRPCLeaseNotFound):
			return struct{}{}, nil
		case err != nil:
			return struct{}{}, err
		}
		return struct{}{}, l.b.seen(c, r.Header)
	})
	if err != nil {
		return backend.WrapError(backendName, "Revoke", "", a.Endpoint, err)
	}
	return nil
}
