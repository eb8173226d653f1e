package remote

import (
	"context"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/attempt"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
)

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
	deadline, _ := ctx.Deadline()
	a := p.PickAt(endpoint.Write, at(lease))
	ctx, cancel := context.WithTimeout(ctx, p.AttemptTimeout(endpoint.Write, time.Until(deadline), r.Copy/2)) // every other one is a hedge
	defer cancel()
	answer, err := one(ctx, a.Endpoint(), lease)
	a.End(err)
	if err == nil {
		dcs.AnsweredBy(ctx, answer.Endpoint)
	}
	return answer, err
}

// Anywhere is Send's at for a store whose writes are bound to no endpoint.
func Anywhere(dcs.LeaseID) string { return "" }
