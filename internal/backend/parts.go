package backend

import (
	"context"
	"sync"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/attempt"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
)

// Parts are the parts of a client of a store with servers, which end with it.
type Parts struct {
	Markers  *Markers
	End      context.CancelCauseFunc // ends the calls
	Leases   func()                  // ends the sessions of leases; may be nil
	Commits  *attempt.Committer
	Copy     interface{ Close() } // the copy behind Wait
	Pool     *endpoint.Pool
	Identity *Identity
	Conns    interface{ CloseAll() }

	closing sync.Once
}

// Close ends all parts, at the first call. The lease of the markers is revoked first, because
// that is a call. The connections are closed last, after everything that uses them has ended.
func (p *Parts) Close() {
	p.closing.Do(func() {
		p.Markers.Close()
		p.End(dcs.ErrClosed)
		if p.Leases != nil {
			p.Leases()
		}
		_ = p.Commits.Close() // never returns an error
		p.Copy.Close()
		p.Pool.Close()
		p.Identity.Close()
		p.Conns.CloseAll()
	})
}

// DoAt is [endpoint.DoAt], once the store of i is decided.
func DoAt[T any](ctx context.Context, p *endpoint.Pool, i *Identity, class endpoint.Class, at func() string, call func(ctx context.Context, addr string) (T, error)) (endpoint.Answer[T], error) {
	i.Await(ctx)
	return endpoint.DoAt(ctx, p, class, at, call)
}

// Do is DoAt for a call that prefers no endpoint. It passes the connection to call that
// admitted returns for an endpoint.
func Do[C, T any](ctx context.Context, p *endpoint.Pool, i *Identity, class endpoint.Class, admitted func(ctx context.Context, addr string) (C, error),
	call func(ctx context.Context, c C) (T, error),
) (endpoint.Answer[T], error) {
	return DoAt(ctx, p, i, class, func() string { return "" }, func(ctx context.Context, addr string) (T, error) {
		c, err := admitted(ctx, addr)
		if err != nil {
			var zero T
			return zero, err
		}
		return call(ctx, c)
	})
}
