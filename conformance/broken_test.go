package conformance

import (
	"context"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/memstore"
)

// broken is a memstore client with one defect. Every field that is set replaces a method.
// The hooks of the harness find the client through it.
type broken struct {
	*memstore.Backend
	get      func(ctx context.Context, key string) (dcs.Entry, error)
	snapshot func(ctx context.Context, prefix string) (dcs.Snapshot, error)
	wait     func(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, error)
	commit   func(ctx context.Context, t dcs.Txn) (dcs.Revision, error)
	grant    func(ctx context.Context, ttl time.Duration) (dcs.Lease, dcs.Renewal, error)
	caps     func() dcs.Caps
	close    func() error
}

func (b *broken) Get(ctx context.Context, key string) (dcs.Entry, error) {
	if b.get != nil {
		return b.get(ctx, key)
	}
	return b.Backend.Get(ctx, key)
}

func (b *broken) Snapshot(ctx context.Context, prefix string) (dcs.Snapshot, error) {
	if b.snapshot != nil {
		return b.snapshot(ctx, prefix)
	}
	return b.Backend.Snapshot(ctx, prefix)
}

func (b *broken) Wait(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, error) {
	if b.wait != nil {
		return b.wait(ctx, prefix, since)
	}
	return b.Backend.Wait(ctx, prefix, since)
}

func (b *broken) Commit(ctx context.Context, t dcs.Txn) (dcs.Revision, error) {
	if b.commit != nil {
		return b.commit(ctx, t)
	}
	return b.Backend.Commit(ctx, t)
}

func (b *broken) Grant(ctx context.Context, ttl time.Duration) (dcs.Lease, dcs.Renewal, error) {
	if b.grant != nil {
		return b.grant(ctx, ttl)
	}
	return b.Backend.Grant(ctx, ttl)
}

func (b *broken) Caps() dcs.Caps {
	if b.caps != nil {
		return b.caps()
	}
	return b.Backend.Caps()
}

func (b *broken) Close() error {
	if b.close != nil {
		return b.close()
	}
	return b.Backend.Close()
}

// brokenLease is the same for a lease.
type brokenLease struct {
	dcs.Lease
	renew  func(ctx context.Context, keys ...string) (dcs.Renewal, error)
	revoke func(ctx context.Context) error
}

func (l *brokenLease) Renew(ctx context.Context, keys ...string) (dcs.Renewal, error) {
	if l.renew != nil {
		return l.renew(ctx, keys...)
	}
	return l.Lease.Renew(ctx, keys...)
}

func (l *brokenLease) Revoke(ctx context.Context) error {
	if l.revoke != nil {
		return l.revoke(ctx)
	}
	return l.Lease.Revoke(ctx)
}

// leases makes f break every lease that b grants.
func (b *broken) leases(f func(l *brokenLease, r *dcs.Renewal)) {
	b.grant = func(ctx context.Context, ttl time.Duration) (dcs.Lease, dcs.Renewal, error) {
		l, r, err := b.Backend.Grant(ctx, ttl)
		if err != nil {
			return nil, r, err
		}
		bl := &brokenLease{Lease: l}
		f(bl, &r)
		return bl, r, nil
	}
}

// rewriting makes f change every Txn before it is committed.
func (b *broken) rewriting(f func(ctx context.Context, t *dcs.Txn)) {
	b.commit = func(ctx context.Context, t dcs.Txn) (dcs.Revision, error) {
		c := dcs.Txn{If: append([]dcs.Cond(nil), t.If...), Then: append([]dcs.Write(nil), t.Then...)}
		f(ctx, &c)
		return b.Backend.Commit(ctx, c)
	}
}

// dropping removes the conditions that f selects.
func (b *broken) dropping(f func(c dcs.Cond) bool) {
	b.rewriting(func(_ context.Context, t *dcs.Txn) {
		var kept []dcs.Cond
		for _, c := range t.If {
			if !f(c) {
				kept = append(kept, c)
			}
		}
		t.If = kept
	})
}

// brokenHarness is memstore with every client broken by f.
func brokenHarness(name string, f func(tb testing.TB, b *broken)) Harness {
	h := memHarness(name, memstore.Options{})
	sound := h.New
	h.New = func(tb testing.TB) Store {
		s := sound(tb)
		wrap := func(raw dcs.Backend) dcs.Backend {
			m, ok := raw.(*memstore.Backend)
			if !ok {
				tb.Fatalf("%T is not a client of memstore", raw)
			}
			b := &broken{Backend: m}
			f(tb, b)
			return b
		}
		inner := func(b dcs.Backend) dcs.Backend {
			w, ok := b.(*broken)
			if !ok {
				tb.Fatalf("%T is not a broken client", b)
			}
			return w.Backend
		}
		out := s
		out.Open = func(tb testing.TB) dcs.Backend { return wrap(s.Open(tb)) }
		out.OpenWith = func(tb testing.TB, o Opening) (dcs.Backend, error) {
			b, err := s.OpenWith(tb, o)
			if err != nil {
				return nil, err
			}
			if o.Endpoints != nil && len(o.Endpoints) < len(s.Cluster.Endpoints) {
				return &broken{Backend: b.(*memstore.Backend)}, nil // the client of a witness has no defect
			}
			return wrap(b), nil
		}
		out.Requests = func(b dcs.Backend) int64 { return s.Requests(inner(b)) }
		out.Inject = func(b dcs.Backend, f Fault) func() { return s.Inject(inner(b), f) }
		return out
	}
	return h
}
