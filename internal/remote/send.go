package remote

import (
	"context"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/attempt"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
)

// Committing are o with p's say in when a Commit's further copies are sent.
func Committing(p *endpoint.Pool, o attempt.Options) attempt.Options {
	o.HedgeAfter = func() time.Duration { return p.HedgeAfter(endpoint.Write) }
	o.Hedge = p.TakeHedge
	o.ResendAfter = func(left time.Duration, round int) time.Duration {
		return p.AttemptTimeout(endpoint.Write, left, round)
	}
	return o
}

// Keys are all that r is about, each once: the marker, the keys of its conditions
// and those that it writes.
func Keys(r attempt.Request) []string {
	keys := r.Keys()
	for _, w := range r.Txn.Then {
		keys = append(keys, w.Key)
	}
	return Unique(keys)
}

// Send sends one copy of r to one server, as [attempt.Transport] asks for: one
// is the sending itself, with the lease of the marker where r makes one. at says
// where r should go while that is well, as for [endpoint.Pool.PickAt].
func Send(ctx context.Context, p *endpoint.Pool, m *Markers, r attempt.Request, at func(lease dcs.LeaseID) string,
	one func(ctx context.Context, addr string, lease dcs.LeaseID) (attempt.Answer, error),
) (attempt.Answer, error) {
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
		at, refusal := refusals.Unanimous(p)
		if refusal != nil {
			addr, err = at, refusal
		}
		// While nothing was written and a server has refused for a reason that may
		// be its own, the next one is asked, each once.
		if refusal != nil || !v.Refused || !refusals.Any() || len(refusals.Asked()) == before || ctx.Err() != nil {
			return answer, &endpoint.Fault{Endpoint: addr, Err: err}
		}
	}
}

// sendAt sends the copy to one server that has not been asked, if there is one.
func sendAt(ctx context.Context, p *endpoint.Pool, r attempt.Request, lease dcs.LeaseID, at string, asked []string,
	one func(ctx context.Context, addr string, lease dcs.LeaseID) (attempt.Answer, error),
) (string, attempt.Answer, error) {
	deadline, _ := ctx.Deadline()
	a := p.PickAt(endpoint.Write, at, asked...)
	limit := p.AttemptTimeout(endpoint.Write, time.Until(deadline), r.Round)
	ctx, cancel := context.WithTimeout(ctx, endpoint.Patience*limit)
	defer cancel()
	late := time.AfterFunc(limit, a.Late)
	defer late.Stop()
	answer, err := one(ctx, a.Endpoint(), lease)
	if r.Hedge && (err != nil || answer.Outcome == attempt.Applied) {
		a.Hedge() // what was refused neither won nor came too late
	}
	a.End(err)
	return a.Endpoint(), answer, err
}

// Anywhere is Send's at for a store whose writes are bound to no endpoint.
func Anywhere(dcs.LeaseID) string { return "" }
