package backend

import (
	"context"
	"errors"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/attempt"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
)

// CommitOptions returns o with hedging and resending controlled by p.
func CommitOptions(p *endpoint.Pool, o attempt.Options) attempt.Options {
	o.HedgeAfter = func() time.Duration { return p.HedgeAfter(endpoint.Write) }
	o.Hedge = p.AllowHedge
	o.ResendAfter = func(left time.Duration, round int) time.Duration {
		return p.AttemptTimeout(endpoint.Write, left, round)
	}
	return o
}

// Keys returns all keys of r, each once. They are the marker, the keys of its conditions and
// the keys that it writes.
func Keys(r attempt.Request) []string {
	keys := r.Keys()
	for _, w := range r.Txn.Then {
		keys = append(keys, w.Key)
	}
	return Unique(keys)
}

// Send sends one copy of r to one server, as [attempt.Transport] requires, once the
// store of i is decided. one does the sending, with the lease of the marker if r creates
// one. at returns the endpoint to which r should go while that is healthy, as for
// [endpoint.Pool.PickAt].
func Send(ctx context.Context, p *endpoint.Pool, i *Identity, m *Markers, r attempt.Request, at func(lease dcs.LeaseID) string,
	one func(ctx context.Context, addr string, lease dcs.LeaseID) (attempt.Answer, error),
) (attempt.Answer, error) {
	i.Await(ctx)
	var lease dcs.LeaseID
	if r.Marker.Create {
		var err error
		if lease, err = m.Lease(ctx); err != nil {
			return attempt.Answer{}, err
		}
	}
	var refusals endpoint.Refusals
	for {
		if err := p.Admit(ctx); err != nil {
			return attempt.Answer{}, NotSent(err)
		}
		addr, answer, err := sendAt(ctx, p, r, lease, at(lease), refusals.Asked(), one)
		if err == nil {
			refusals.Served(p, addr)
			dcs.AnsweredBy(ctx, addr)
			return answer, nil
		}
		v, before := Judge(err), len(refusals.Asked())
		refusals.Note(addr, err, v)
		if at, refusal := refusals.Unanimous(p); refusal != nil {
			return answer, &endpoint.Fault{Endpoint: at, Err: refusal}
		}
		// While nothing was written and a server has refused for a reason that may be
		// its own, the next server is tried, each once.
		if v.Refused && refusals.Any() && len(refusals.Asked()) > before && ctx.Err() == nil {
			continue
		}
		if dcs.KindOf(err) == dcs.ErrUnauthorized && !v.Final && !refusals.ByAll(p, hasKind) { //nolint:errorlint // KindOf returns a sentinel
			err = &passing{err}
		}
		return answer, &endpoint.Fault{Endpoint: addr, Err: err}
	}
}

// hasKind reports whether err is a Failure with a kind.
func hasKind(err error) bool {
	var f *Failure
	return errors.As(err, &f) && f.Kind != nil
}

// passing is a refusal that must not end the Commit, because another server or a later copy
// may succeed. It has no kind, and matches the errors that err matches.
type passing struct{ err error }

func (p *passing) Error() string { return p.err.Error() }

func (p *passing) Is(target error) bool { return errors.Is(p.err, target) }

// sendAt sends the copy to a server that has not been tried, if there is one.
func sendAt(ctx context.Context, p *endpoint.Pool, r attempt.Request, lease dcs.LeaseID, at string, asked []string,
	one func(ctx context.Context, addr string, lease dcs.LeaseID) (attempt.Answer, error),
) (string, attempt.Answer, error) {
	deadline, _ := ctx.Deadline()
	a := p.PickAt(endpoint.Write, at, asked...)
	limit := p.AttemptTimeout(endpoint.Write, time.Until(deadline), r.Round)
	ctx, cancel := context.WithTimeout(ctx, endpoint.LateWriteFactor*limit)
	defer cancel()
	late := time.AfterFunc(limit, a.Late)
	defer late.Stop()
	answer, err := one(ctx, a.Endpoint(), lease)
	if r.Hedge && (err != nil || answer.Outcome == attempt.Applied) {
		a.Hedge() // a refused hedge has neither won nor come too late
	}
	a.End(err)
	return a.Endpoint(), answer, err
}

// Anywhere is the at of Send for a store whose writes are bound to no endpoint.
func Anywhere(dcs.LeaseID) string { return "" }
