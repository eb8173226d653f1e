package consul

import (
	"context"
	"errors"
	"math/rand/v2"

	"github.com/hashicorp/consul/api"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/attempt"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
)

// Commit implements [dcs.Backend].
func (b *Backend) Commit(ctx context.Context, t dcs.Txn) (dcs.Revision, error) {
	return b.commits.Commit(ctx, t)
}

// Settle implements [dcs.Settler].
func (b *Backend) Settle(ctx context.Context, e *dcs.Error) (dcs.Revision, error) {
	return b.commits.Settle(ctx, e)
}

// transport sends requests for package attempt.
type transport struct{ b *Backend }

// Read implements [attempt.Transport].
func (t transport) Read(ctx context.Context, keys ...string) ([]dcs.Entry, error) {
	a, err := do(t.b.hooks.named(ctx, "Read"), t.b, endpoint.Read, func(ctx context.Context, c *conn) ([]dcs.Entry, error) {
		return t.b.look(ctx, c, keys)
	})
	return a.Value, err
}

// Recall implements [attempt.Recaller].
func (t transport) Recall(key string) (dcs.Entry, bool) {
	now, known := t.b.known.Of(key)
	return dcs.Entry{Key: key, Created: now.created, Modified: now.modified, Lease: now.session}, known
}

// Send implements [attempt.Transport]. It sends one transaction to one endpoint. If it
// must know the session that holds a written key, it reads the key before.
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
	before := b.newest()
	whole := r.Whole(lease)
	if keys := b.known.missing(whole); len(keys) > 0 {
		if _, err := b.look(ctx, c, keys); err != nil {
			return attempt.Answer{}, backend.NotSent(err)
		}
	}
	ops := b.ops(r, whole)
	a := attempt.Answer{Endpoint: addr}
	type answer struct {
		ok   bool
		resp *api.KVTxnResponse
	}
	got, err := call(ctx, c, func(ctx context.Context, token string) (answer, error) {
		ok, resp, _, err := c.api.KV().Txn(ops, (&api.QueryOptions{Token: token}).WithContext(ctx))
		if err == nil && !ok {
			err = deniedIn(resp.Errors)
		}
		return answer{ok, resp}, err
	})
	if err != nil {
		b.known.forget(whole)
		return a, err
	}
	if got.ok {
		a.Outcome, a.Revision = attempt.Applied, b.learn(whole, got.resp.Results)
		b.copy.Saw(a.Revision)
		return a, b.ident.Follows(addr, before, a.Revision)
	}
	return b.refused(ctx, c, r, whole, ops, got.resp.Errors)
}

// refused determines why a transaction was refused. It reads the keys of the request
// again, because Consul reports only which operations failed.
func (b *Backend) refused(ctx context.Context, c *conn, r attempt.Request, whole dcs.Txn, ops api.KVTxnOps, faults api.TxnErrors) (attempt.Answer, error) {
	a := attempt.Answer{Endpoint: c.addr, Outcome: attempt.Refused}
	for _, f := range faults {
		op := opAt(ops, f)
		switch refusalOf(op, f.What) {
		case condition, denied: // the latter is an error of the call
		case delayed:
			return a, &backend.Failure{Endpoint: c.addr, Err: errors.New(f.What), Refused: true}
		case leaseGone:
			if b.markers.Lost(dcs.LeaseID(op.Session)) {
				return a, &backend.Failure{Endpoint: c.addr, Err: errors.New(f.What), Refused: true}
			}
			a.Outcome = attempt.LeaseLost // P14
		}
	}
	entries, err := b.look(ctx, c, backend.Keys(r))
	if err != nil {
		return a, backend.NotSent(err) // the transaction was refused for an unknown reason
	}
	a.Seen, a.Entries = true, entries
	return a, nil
}

// opAt returns the operation that f belongs to, or nil if there is none.
func opAt(ops api.KVTxnOps, f *api.TxnError) *api.KVTxnOp {
	if f.OpIndex < 0 || f.OpIndex >= len(ops) {
		return nil
	}
	return ops[f.OpIndex]
}

// ops returns the operations for Consul. The condition of the marker comes first. Every
// put has random flags, because Consul ignores a put that changes nothing and keeps the
// index of its key.
func (b *Backend) ops(r attempt.Request, whole dcs.Txn) api.KVTxnOps {
	var ops api.KVTxnOps
	for _, c := range whole.If {
		op := &api.KVTxnOp{Verb: api.KVCheckIndex, Key: b.root + c.Key, Index: uint64(c.Is)}
		if c.Is == 0 {
			op.Verb = api.KVCheckNotExists
		}
		ops = append(ops, op)
	}
	for i, w := range whole.Then {
		if i == 0 && !r.Marker.Create {
			// A marker that exists keeps its lease, so that a lease which is not
			// found is the caller's.
			ops = append(ops, b.put(api.KVSet, w))
			continue
		}
		ops = append(ops, b.write(w)...)
	}
	return ops
}

func (b *Backend) put(verb api.KVOp, w dcs.Write) *api.KVTxnOp {
	return &api.KVTxnOp{Verb: verb, Key: b.root + w.Key, Value: w.Value, Flags: rand.Uint64()} //nolint:gosec // G404: only to differ from the last one
}

// write returns the operations of one write, depending on the binding of the key.
// Consul's set keeps the session of a key, and its lock fails for a key of another
// session.
func (b *Backend) write(w dcs.Write) api.KVTxnOps {
	if w.Delete {
		return api.KVTxnOps{{Verb: api.KVDelete, Key: b.root + w.Key}}
	}
	now, _ := b.known.Of(w.Key)
	switch {
	case w.Lease != "":
		lock := b.put(api.KVLock, w)
		lock.Session = string(w.Lease)
		if now.session == "" || now.session == w.Lease {
			return api.KVTxnOps{lock}
		}
		unlock := b.put(api.KVUnlock, w)
		unlock.Session = string(now.session)
		return api.KVTxnOps{unlock, lock}
	case now.session != "":
		unlock := b.put(api.KVUnlock, w)
		unlock.Session = string(now.session)
		return api.KVTxnOps{unlock}
	}
	cas := b.put(api.KVCAS, w)
	cas.Index = uint64(now.modified) // 0: only if the key is absent
	return api.KVTxnOps{cas}
}

// refusedRead returns the failure of a read that Consul refused.
func refusedRead(c *conn, resp *api.KVTxnResponse) error {
	what := "Consul refused the read without a reason"
	for _, f := range resp.Errors {
		what = f.What
	}
	return &backend.Failure{Endpoint: c.addr, Err: errors.New(what), Blame: true, Refused: true}
}
