package conformance

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/memstore"
)

// faultMutants are stores that do not tolerate faults of a server.
var faultMutants = slices.Concat(
	[]mutant{
		{"the whole budget for the first endpoint", "Rotate/Slow", func(tb testing.TB, b *broken) {
			b.instead(tb, memstore.ClientOptions{AttemptTimeout: 3 * time.Second, HedgeAfter: -1})
		}},
		{"an outage is an answer", "Outage/AllDown", func(_ testing.TB, b *broken) {
			b.get = func(ctx context.Context, key string) (dcs.Entry, error) {
				e, err := b.Backend.Get(ctx, key)
				if errors.Is(err, dcs.ErrUnavailable) {
					err = dcs.ErrNotFound
				}
				return e, err
			}
		}},
		{"a hang in an outage", "Outage/AllDown", func(_ testing.TB, b *broken) {
			b.get = func(ctx context.Context, key string) (dcs.Entry, error) {
				e, err := b.Backend.Get(ctx, key)
				if errors.Is(err, dcs.ErrUnavailable) {
					time.Sleep(time.Second)
				}
				return e, err
			}
		}},
		{"leadership without a confirmed write", "Outage/ReadOnly", func(_ testing.TB, b *broken) {
			b.commit = func(ctx context.Context, t dcs.Txn) (dcs.Revision, error) {
				rev, err := b.Backend.Commit(ctx, t)
				if errors.Is(err, dcs.ErrUnavailable) {
					return 1 << 40, nil
				}
				return rev, err
			}
		}},
		{"early expiry unnoticed", "Holder/EarlyExpiry", func(_ testing.TB, b *broken) { b.renewingBlindly() }},
		{"a grant that promises twice its TTL", "Holder/LinkLostBeforeFirstRenewal", func(_ testing.TB, b *broken) {
			b.leases(func(_ *brokenLease, r *dcs.Renewal) { r.TTL, r.Expiry = 2*r.TTL, 2*r.Expiry })
		}},
		{"commits that are acknowledged and not done", "Store/Kill9", func(_ testing.TB, b *broken) {
			n := 0
			b.commit = func(ctx context.Context, t dcs.Txn) (dcs.Revision, error) {
				if n++; n%10 == 0 && len(t.If) == 0 {
					return 1 << 40, nil
				}
				return b.Backend.Commit(ctx, t)
			}
		}},
		{"a herd", "Herd/Reconnect", func(_ testing.TB, b *broken) {
			b.grant = func(ctx context.Context, ttl time.Duration) (dcs.Lease, dcs.Renewal, error) {
				for range 500 { // retries without a pause
					_, _ = b.Backend.Snapshot(ctx, "")
				}
				return b.Backend.Grant(ctx, ttl)
			}
		}},
		{"changes are seen late", "Rotate/HalfHealthy", func(_ testing.TB, b *broken) {
			b.wait = func(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, error) {
				s, err := b.Backend.Wait(ctx, prefix, since)
				if err == nil {
					time.Sleep(4 * time.Second)
				}
				return s, err
			}
		}},
		{"the first address of a name and no other", "Rotate/DeadAddress", func(tb testing.TB, b *broken) {
			b.instead(tb, memstore.ClientOptions{Endpoints: []string{dead}})
		}},
		{"a lease that goes with its server", "Rotate/Silent", func(_ testing.TB, b *broken) {
			b.leases(func(l *brokenLease, _ *dcs.Renewal) {
				l.renew = func(ctx context.Context, keys ...string) (dcs.Renewal, error) {
					short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
					defer cancel()
					r, err := l.Lease.Renew(short, keys...)
					if err != nil && ctx.Err() == nil {
						err = dcs.ErrLost
					}
					return r, err
				}
			})
		}},
	},
	neverRotates(
		"Rotate/OneRefuses", "Rotate/Frozen", "Rotate/Silent", "Rotate/Blackholed", "Rotate/Refused", "Rotate/Reset", "Rotate/DNS", "Rotate/HalfHealthy",
		"Rotate/FarEndpoint", "Rotate/ComesBack", "Rotate/SeedDownAtOpen", "Store/RollingRestart", "Store/OneReboots",
	),
)

// neverRotates returns mutants that stay with their first endpoint, one for each case that
// must detect that.
func neverRotates(cases ...string) []mutant {
	var out []mutant
	for _, c := range cases {
		out = append(out, mutant{"never rotates, " + c, c, func(tb testing.TB, b *broken) {
			b.instead(tb, memstore.ClientOptions{Endpoints: []string{"m1"}})
		}})
	}
	return out
}

// instead replaces the correct client by another one.
func (b *broken) instead(tb testing.TB, o memstore.ClientOptions) {
	sound := b.Backend
	o.Timing = dcs.Timing{TTL: 10 * time.Second, LoopWait: 2 * time.Second, RetryTimeout: 3 * time.Second}
	b.Backend = sound.Server().Open(o)
	if err := sound.Close(); err != nil {
		tb.Error(err)
	}
}
