package etcd3

import (
	"context"
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/attempt"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
)

// Commit implements [dcs.Backend]. A full store accepts deletions only, and no marker.
func (b *Backend) Commit(ctx context.Context, t dcs.Txn) (dcs.Revision, error) {
	rev, err := b.commits.Commit(ctx, t)
	if errors.Is(err, attempt.ErrFull) && dcs.KindOf(err) == dcs.ErrUnavailable && appliesOnce(t) { //nolint:errorlint // KindOf returns a sentinel
		return (&removal{b: b, txn: t}).run(ctx, "Commit")
	}
	return rev, err
}

// Settle implements [dcs.Settler].
func (b *Backend) Settle(ctx context.Context, e *dcs.Error) (dcs.Revision, error) {
	if r, ok := e.Attempt.(*removal); ok && r.b == b {
		return r.run(ctx, "Settle")
	}
	return b.commits.Settle(ctx, e)
}

// transport sends requests for package attempt.
type transport struct{ b *Backend }

// Send implements [attempt.Transport]. It sends one transaction to one member.
func (t transport) Send(ctx context.Context, r attempt.Request) (attempt.Answer, error) {
	b := t.b
	return backend.Send(ctx, b.pool, &b.ident, &b.markers, r, backend.Anywhere, func(ctx context.Context, addr string, lease dcs.LeaseID) (attempt.Answer, error) {
		return b.send(ctx, addr, r, lease)
	})
}

func (b *Backend) send(ctx context.Context, addr string, r attempt.Request, lease dcs.LeaseID) (attempt.Answer, error) {
	c, err := b.admitted(ctx, addr)
	if err != nil {
		return attempt.Answer{}, err
	}
	a, before := attempt.Answer{Endpoint: addr}, b.copy.Latest()
	resp, err := call(ctx, c, func(ctx context.Context, o ...grpc.CallOption) (*pb.TxnResponse, error) {
		return c.kv.Txn(ctx, b.txn(r, lease), o...)
	})
	switch {
	case is(err, rpctypes.ErrGRPCLeaseNotFound) && lease != "":
		b.markers.Lost(lease)
		return a, &backend.Failure{Endpoint: addr, Err: err, Text: text(err), Refused: true}
	case is(err, rpctypes.ErrGRPCLeaseNotFound): // P14
		a.Outcome = attempt.LeaseLost
		return a, nil
	case err != nil:
		return a, err
	}
	if err := b.follows(c, before, resp.Header); err != nil {
		return a, err
	}
	if resp.Succeeded {
		a.Outcome, a.Revision = attempt.Applied, revision(resp.Header.Revision)
		return a, nil
	}
	a.Outcome, a.Seen, a.Entries = attempt.Refused, true, b.entries(ranged(resp.Responses))
	return a, nil
}

// txn returns the request to etcd. The put of the marker comes first. A marker that
// exists already keeps its lease, so that a lease which is not found is the caller's.
func (b *Backend) txn(r attempt.Request, markerLease dcs.LeaseID) *pb.TxnRequest {
	whole := r.Whole(markerLease)
	req := &pb.TxnRequest{Failure: asOps(b.exactly(r.Keys()))}
	for _, c := range whole.If {
		req.Compare = append(req.Compare, b.compare(c))
	}
	for i, w := range whole.Then {
		op := b.write(w)
		if put := op.GetRequestPut(); i == 0 && put != nil && !r.Marker.Create {
			put.Lease, put.IgnoreLease = 0, true
		}
		req.Success = append(req.Success, op)
	}
	return req
}

func (b *Backend) compare(c dcs.Cond) *pb.Compare {
	is := int64(c.Is)
	out := &pb.Compare{Result: pb.Compare_EQUAL, Key: b.physical(c.Key)}
	if c.On == dcs.Created {
		out.Target, out.TargetUnion = pb.Compare_CREATE, &pb.Compare_CreateRevision{CreateRevision: is}
	} else {
		out.Target, out.TargetUnion = pb.Compare_MOD, &pb.Compare_ModRevision{ModRevision: is}
	}
	return out
}

func (b *Backend) write(w dcs.Write) *pb.RequestOp {
	if w.Delete {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{
			RequestDeleteRange: &pb.DeleteRangeRequest{Key: b.physical(w.Key)},
		}}
	}
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{
		RequestPut: &pb.PutRequest{Key: b.physical(w.Key), Value: w.Value, Lease: leaseNumber(w.Lease)},
	}}
}

// Read implements [attempt.Transport].
func (t transport) Read(ctx context.Context, keys ...string) ([]dcs.Entry, error) {
	a, err := do(t.b.hooks.named(ctx, "Read"), t.b, endpoint.Read, func(ctx context.Context, c *conn) ([]*pb.RangeResponse, error) {
		r, _, err := t.b.read(ctx, c, t.b.exactly(keys)...)
		return r, err
	})
	if err != nil {
		return nil, err
	}
	return t.b.entries(a.Value), nil
}

func (b *Backend) exactly(keys []string) []*pb.RangeRequest {
	out := make([]*pb.RangeRequest, len(keys))
	for i, key := range keys {
		out[i] = &pb.RangeRequest{Key: b.physical(key)}
	}
	return out
}

func (b *Backend) entries(ranges []*pb.RangeResponse) []dcs.Entry {
	var out []dcs.Entry
	for _, r := range ranges {
		for _, p := range r.Kvs {
			out = append(out, b.entry(p))
		}
	}
	return out
}
