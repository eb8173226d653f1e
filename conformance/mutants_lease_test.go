package conformance

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

var leaseMutants = []mutant{
	{"a renewal of one transaction's keys", "Hold/ManyKeys", func(_ testing.TB, b *broken) {
		b.leases(func(l *brokenLease, _ *dcs.Renewal) {
			l.renew = func(ctx context.Context, keys ...string) (dcs.Renewal, error) {
				if len(keys) > aTransaction {
					return dcs.Renewal{}, errors.New("too many operations in txn request")
				}
				return l.Lease.Renew(ctx, keys...)
			}
		})
	}},
	{"a renewal that reads the first keys", "Hold/ManyKeys", func(_ testing.TB, b *broken) {
		b.leases(func(l *brokenLease, _ *dcs.Renewal) {
			l.renew = func(ctx context.Context, keys ...string) (dcs.Renewal, error) {
				return l.Lease.Renew(ctx, keys[:min(len(keys), aTransaction)]...)
			}
		})
	}},
	{"an immortal lease", "Lease/ExpiresInBounds", func(_ testing.TB, b *broken) { b.scaled(1000, 1) }},
	{"a lease that dies early", "Lease/ExpiresInBounds", func(_ testing.TB, b *broken) { b.scaled(0.6, 1) }},
	{"the requested TTL is reported, not the granted one", "Lease/GrantedIsReported", func(_ testing.TB, b *broken) {
		b.leases(func(l *brokenLease, r *dcs.Renewal) {
			report := func(r *dcs.Renewal) { r.TTL, r.Expiry = 2*r.TTL, 2*r.Expiry }
			l.renew = func(ctx context.Context, keys ...string) (dcs.Renewal, error) {
				r, err := l.Lease.Renew(ctx, keys...)
				report(&r)
				return r, err
			}
			report(r)
		})
	}},
	{"the TTL of the Grant is reported for ever", "Hold/ShorterLife", func(_ testing.TB, b *broken) {
		b.leases(func(l *brokenLease, granted *dcs.Renewal) {
			first := *granted
			l.renew = func(ctx context.Context, keys ...string) (dcs.Renewal, error) {
				r, err := l.Lease.Renew(ctx, keys...)
				r.TTL, r.Expiry = first.TTL, first.Expiry
				return r, err
			}
		})
	}},
	{"renewal without a round trip", "Lease/UnknownIsLost", func(_ testing.TB, b *broken) { b.renewingBlindly() }},
	{"an answer for which no call waited", "Lease/LateAnswerRevivesNothing", func(_ testing.TB, b *broken) {
		b.leases(func(l *brokenLease, granted *dcs.Renewal) {
			l.renew = func(ctx context.Context, keys ...string) (dcs.Renewal, error) {
				r, err := l.Lease.Renew(ctx, keys...)
				if err != nil { // the renewal was sent, so it may have been executed
					r, err = *granted, nil
					r.From = dcs.Now()
				}
				return r, err
			}
		})
	}},
	{"the deadline counts from the reply", "Lease/FromNotLaterThanSend", func(_ testing.TB, b *broken) {
		b.leases(func(l *brokenLease, _ *dcs.Renewal) {
			l.renew = func(ctx context.Context, keys ...string) (dcs.Renewal, error) {
				r, err := l.Lease.Renew(ctx, keys...)
				r.From = dcs.Now()
				return r, err
			}
		})
	}},
	{"a Grant counts from the reply, and is never repeated", "Lease/FromNotLaterThanSend", func(_ testing.TB, b *broken) {
		b.grant = func(ctx context.Context, ttl time.Duration) (dcs.Lease, dcs.Renewal, error) {
			begin := dcs.Now()
			l, r, err := b.Backend.Grant(ctx, ttl)
			r.From = dcs.Now()
			if begin.Elapsed() > slack+150*time.Millisecond { // longer than the suite holds an answer back: a copy was lost
				return nil, r, &dcs.Error{Kind: dcs.ErrAmbiguous, Err: errors.New("the answer was lost")}
			}
			return l, r, err
		}
	}},
	{"revoking only stops renewing", "Lease/RevokedIsLost", func(_ testing.TB, b *broken) {
		b.leases(func(l *brokenLease, _ *dcs.Renewal) {
			l.revoke = func(context.Context) error { return nil }
		})
	}},
	{"one lease for a whole client", "Lease/TwoInOneStore", func(_ testing.TB, b *broken) {
		var lease dcs.Lease
		b.grant = func(ctx context.Context, ttl time.Duration) (dcs.Lease, dcs.Renewal, error) {
			if lease != nil {
				r, err := lease.Renew(ctx)
				return lease, r, err
			}
			l, r, err := b.Backend.Grant(ctx, ttl)
			lease = l
			return l, r, err
		}
	}},
	{"a renewal that does not check the keys", "Hold/ExternalTakeover", func(_ testing.TB, b *broken) { b.remembering() }},
	{"a confirmation from memory", "Hold/ConfirmAsksTheStore", func(_ testing.TB, b *broken) { b.remembering() }},
	{"a TTL beyond the limits of a socket", "Keepalive/HugeTTL", func(_ testing.TB, b *broken) {
		b.grant = func(ctx context.Context, ttl time.Duration) (dcs.Lease, dcs.Renewal, error) {
			if ttl > 32767*time.Second {
				return nil, dcs.Renewal{}, &dcs.Error{Kind: dcs.ErrUnavailable, Err: syscall.EINVAL}
			}
			return b.Backend.Grant(ctx, ttl)
		}
	}},
}

// scaled grants factor times the TTL and reports the requested one.
func (b *broken) scaled(factor, reported float64) {
	b.grant = func(ctx context.Context, ttl time.Duration) (dcs.Lease, dcs.Renewal, error) {
		l, r, err := b.Backend.Grant(ctx, time.Duration(factor*float64(ttl)))
		if err != nil {
			return nil, r, err
		}
		report := func(r *dcs.Renewal) {
			r.TTL = time.Duration(reported * float64(ttl))
			r.Expiry = r.TTL
		}
		bl := &brokenLease{Lease: l}
		bl.renew = func(ctx context.Context, keys ...string) (dcs.Renewal, error) {
			r, err := l.Renew(ctx, keys...)
			if err == nil {
				report(&r)
			}
			return r, err
		}
		report(&r)
		return bl, r, nil
	}
}

// renewingBlindly answers renewals with the granted TTL, without a request.
func (b *broken) renewingBlindly() {
	b.leases(func(l *brokenLease, granted *dcs.Renewal) {
		kept := *granted
		l.renew = func(context.Context, ...string) (dcs.Renewal, error) {
			r := kept
			r.From = dcs.Now()
			return r, nil
		}
	})
}

// remembering renews leases correctly, and returns the keys as this client has written
// them.
func (b *broken) remembering() {
	var mu sync.Mutex
	written := map[string]dcs.Entry{}
	b.commit = func(ctx context.Context, t dcs.Txn) (dcs.Revision, error) {
		r, err := b.Backend.Commit(ctx, t)
		mu.Lock()
		defer mu.Unlock()
		for _, w := range t.Then {
			if err == nil && w.Lease != "" {
				written[w.Key] = dcs.Entry{Key: w.Key, Created: r, Modified: r, Lease: w.Lease}
			}
		}
		return r, err
	}
	b.leases(func(l *brokenLease, _ *dcs.Renewal) {
		l.renew = func(ctx context.Context, keys ...string) (dcs.Renewal, error) {
			r, err := l.Lease.Renew(ctx)
			mu.Lock()
			defer mu.Unlock()
			for _, k := range keys {
				if en, ok := written[k]; ok {
					r.Entries = append(r.Entries, en)
				}
			}
			return r, err
		}
	})
}

var callMutants = []mutant{
	{"unknown errors are losses", "Call/BudgetKept", func(_ testing.TB, b *broken) {
		b.leases(func(l *brokenLease, _ *dcs.Renewal) {
			l.renew = func(ctx context.Context, keys ...string) (dcs.Renewal, error) {
				r, err := l.Lease.Renew(ctx, keys...)
				return r, errOf(dcs.ErrLost, err)
			}
		})
	}},
	{"silence is a conflict", "Call/BudgetKept", func(_ testing.TB, b *broken) {
		b.commit = func(ctx context.Context, t dcs.Txn) (dcs.Revision, error) {
			r, err := b.Backend.Commit(ctx, t)
			return r, errOf(dcs.ErrConflict, err)
		}
	}},
	{"a call that ignores its context", "Call/BudgetKept", func(_ testing.TB, b *broken) {
		b.get = func(ctx context.Context, key string) (dcs.Entry, error) {
			return b.Backend.Get(context.WithoutCancel(ctx), key)
		}
	}},
	{"a write that is carried on in the background", "Call/CtxCancelled", func(tb testing.TB, b *broken) {
		b.commit = func(_ context.Context, t dcs.Txn) (dcs.Revision, error) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			return b.Backend.Commit(ctx, t)
		}
	}},
	{"a Close that waits for the store", "Close/Bounded", func(_ testing.TB, b *broken) {
		b.close = func() error {
			time.Sleep(time.Minute)
			return b.Backend.Close()
		}
	}},
	{"a goroutine leak", "Close/NoGoroutineLeft", func(tb testing.TB, b *broken) {
		ended := make(chan struct{})
		tb.Cleanup(func() { close(ended) })
		b.wait = func(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, error) {
			go func() { <-ended }()
			return b.Backend.Wait(ctx, prefix, since)
		}
	}},
	{"a Grant whose loss is a success", "Reply/LostAfterCommit", func(_ testing.TB, b *broken) {
		b.grant = func(ctx context.Context, ttl time.Duration) (dcs.Lease, dcs.Renewal, error) {
			one, cancel := context.WithTimeout(ctx, time.Millisecond)
			defer cancel()
			l, r, err := b.Backend.Grant(one, ttl)
			if errors.Is(err, dcs.ErrAmbiguous) {
				l, r, err = b.Backend.Grant(ctx, ttl)
				r.From = dcs.Now()
			}
			return l, r, err
		}
	}},
	{"no spare lease for the keys", "Holder/ConfirmsKeepFailing", func(_ testing.TB, b *broken) {
		b.commit = func(ctx context.Context, t dcs.Txn) (dcs.Revision, error) {
			if t.Lease() != "" && len(t.If) > 0 && t.If[0].Is != 0 {
				return 0, &dcs.Error{Kind: dcs.ErrUnavailable, Err: errors.New("moves are not served")}
			}
			return b.Backend.Commit(ctx, t)
		}
	}},
}
