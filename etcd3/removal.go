package etcd3

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
)

// appliesOnce reports whether t only deletes, and at most one copy of it can ever be
// applied, because it deletes a key at a revision, which never comes back (P7).
func appliesOnce(t dcs.Txn) bool {
	for _, w := range t.Then {
		if !w.Delete {
			return false
		}
	}
	return slices.ContainsFunc(t.Then, func(w dcs.Write) bool {
		return slices.ContainsFunc(t.If, func(c dcs.Cond) bool { return c.Key == w.Key && c.Is != 0 })
	})
}

// A removal is a Commit without a marker on a full store. [appliesOnce] must hold for
// its transaction, so that it can be sent again (P13). Without a marker, a condition
// that fails while a copy is unclear does not show whether that copy was applied (P10,
// P11).
type removal struct {
	b       *Backend
	txn     dcs.Txn
	unclear atomic.Int64 // copies that may have been applied
}

// run sends copies of r until one is answered, and returns the outcome of the call op.
func (r *removal) run(ctx context.Context, op string) (dcs.Revision, error) {
	key := r.txn.Then[0].Key
	a, err := do(r.b.hooks.named(ctx, "Commit"), r.b, endpoint.Write, r.send)
	fail := &dcs.Error{Backend: backendName, Op: op, Key: key, Endpoint: a.Endpoint}
	switch {
	case err != nil && r.unclear.Load() == 0:
		return 0, backend.WrapError(backendName, op, key, a.Endpoint, err)
	case err != nil:
		fail.Kind, fail.Attempt, fail.Err = dcs.ErrAmbiguous, r, err
		return 0, fail
	case a.Value.Succeeded:
		return revision(a.Value.Header.Revision), nil
	case r.unclear.Load() > 0:
		fail.Kind, fail.Fenced, fail.Err = dcs.ErrAmbiguous, true, errRemoved
		return 0, fail
	}
	fail.Kind = dcs.ErrConflict
	return 0, fail
}

var errRemoved = errors.New("the transaction cannot be applied any more; an unanswered copy of the transaction may have been applied")

// send sends one copy to one member.
func (r *removal) send(ctx context.Context, c *conn) (*pb.TxnResponse, error) {
	txn := &pb.TxnRequest{}
	for _, cond := range r.txn.If {
		txn.Compare = append(txn.Compare, r.b.compare(cond))
	}
	for _, w := range r.txn.Then {
		txn.Success = append(txn.Success, r.b.write(w))
	}
	r.unclear.Add(1)
	resp, err := call(ctx, c, func(ctx context.Context, o ...grpc.CallOption) (*pb.TxnResponse, error) {
		return c.kv.Txn(ctx, txn, o...)
	})
	if err == nil {
		err = r.b.seen(c, resp.Header)
	}
	if err == nil && !resp.Succeeded || err != nil && backend.Judge(err).Refused {
		r.unclear.Add(-1)
	}
	return resp, err
}
