package conformance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

var leaseCases = []spec{
	{Case: Case{
		Name:       "Lease/ExpiresInBounds",
		Rule:       "A bound key exists until at least From + TTL, and is removed by Expiry + 1 s after the last renewal was answered.",
		Motivation: "Consul doubles the TTL, etcd rounds it up, ZooKeeper acknowledges a write that renews nothing. The requested TTL is not the one in force.",
	}, sleeps: true, run: expiresInBounds},
	{Case: Case{
		Name:       "Lease/LateAnswerRevivesNothing",
		Rule:       "A Renew without a session that is answered after its lease expired fails, or its From + TTL is correct (P4).",
		Motivation: "A deadline counted from the answer makes two leaders out of one slow packet; a Session's own finality hides it.",
	}, sleeps: true, run: lateAnswer},
	{Case: Case{
		Name:       "Lease/GrantedIsReported",
		Rule:       "A TTL below the store's minimum or above its maximum is moved to the limit, one of zero or less is ErrInvalid, and the Renewal reports the TTL in force.",
		Motivation: "Stores change timeouts without a report. The client then renews too late for a TTL that it never had.",
	}, sleeps: true, run: grantedIsReported},
	{Case: Case{
		Name:       "Lease/FromNotLaterThanSend",
		Rule:       "From is not later than the time at which the request was sent, for a Grant its first copy (P1).",
		Motivation: "The store has counted the time between the request and the answer, and the client has not.",
	}, run: fromNotLaterThanSend},
	{Case: Case{
		Name:       "Lease/RevokedIsLost",
		Rule:       "After Revoke, Renew returns ErrLost and every bound key is deleted. A second Revoke succeeds.",
		Motivation: "A revocation that only stops the renewing leaves the lock for a whole TTL.",
	}, run: revokedIsLost},
	{Case: Case{
		Name:       "Lease/UnknownIsLost",
		Rule:       "Renew of a lease that the store does not know any more returns ErrLost, and revives nothing.",
		Motivation: "Some clients create the lease again under the old name, and the holder continues without its keys.",
	}, sleeps: true, run: unknownIsLost},
	{Case: Case{
		Name:       "Lease/TwoInOneStore",
		Rule:       "Two leases of one client live and end independently.",
		Motivation: "With one session for each connection, as in ZooKeeper's clients, all keys of a process end together.",
	}, run: twoInOneStore},
}

// expiryGrace is the time after Expiry by which a key must be removed.
const expiryGrace = time.Second

// shortTTL is the TTL for cases in which a lease expires.
func (e *env) shortTTL(c *client) time.Duration {
	short := 2 * time.Second // a busy machine can bind and renew within half of it
	if e.h.Virtual {
		short = time.Second
	}
	return max(c.Caps().MinTTL, min(e.timing.TTL, short))
}

// ranOut reports whether a call failed because its lease, granted as r, had expired. A busy
// machine may need the whole life of the shortest leases.
func (e *env) ranOut(err error, r dcs.Renewal) bool {
	return errors.Is(err, dcs.ErrLost) && r.From.Elapsed() >= r.TTL
}

// keepLease keeps a lease of c alive until stop. If a store does not remove expired leases
// by itself (Caps.SelfExpiry), clients with a live lease do.
func (e *env) keepLease(c *client) (stop func()) {
	l, r := c.grant()
	ctx, cancel := context.WithCancel(e.ctx)
	done := e.start(func() {
		tick := time.NewTicker(r.TTL / 4)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				_, _ = l.Renew(ctx) // the case detects a failure by its effect
			case <-ctx.Done():
				return
			}
		}
	})
	return func() { cancel(); <-done }
}

// sightings records when a key was seen.
type sightings struct {
	seen, missed time.Time // when the last read that found the key began, and the first one without it ended
}

// observe reads key repeatedly until it is absent, or deadline has passed as far as the
// control allows.
func (c *client) observe(key string, deadline time.Time) sightings {
	var s sightings
	start := time.Now()
	limit := deadline.Sub(start)
	for {
		begin := time.Now()
		if c.gone(key) {
			s.missed = time.Now()
			return s
		}
		s.seen = begin
		if begin.After(deadline) && c.e.more(limit, start) == 0 {
			return s
		}
		c.e.pass(10 * time.Millisecond)
	}
}

// runsOut requires that key is removed within the bounds of the renewal r, which was
// answered at answered.
func (e *env) runsOut(observer *client, key string, r dcs.Renewal, answered time.Time) {
	// The same instants on both clocks, read together.
	ran := r.From.Elapsed()
	earliest := time.Now().Add(r.TTL - ran)
	latest := answered.Add(r.Expiry + expiryGrace)
	s := observer.observe(key, latest)
	if s.missed.IsZero() {
		e.Fatalf("%q still exists %v after the last renewal was answered; Expiry is %v", key, time.Since(answered).Round(time.Millisecond), r.Expiry)
	}
	if s.missed.Before(earliest) {
		e.Fatalf("%q was removed %v before From + TTL (%v)", key, earliest.Sub(s.missed), r.TTL)
	}
	e.Logf("TTL %v, Expiry %v: removed %v after From + TTL", r.TTL, r.Expiry, s.missed.Sub(earliest).Round(time.Millisecond))
}

func (e *env) promised(r dcs.Renewal) {
	if r.TTL <= 0 || r.Expiry < r.TTL || r.From.IsZero() || r.From.Elapsed() < 0 {
		e.Fatalf("an invalid Renewal: TTL %v, Expiry %v, From %v ago", r.TTL, r.Expiry, r.From.Elapsed())
	}
}

func expiresInBounds(e *env) {
	a, b := e.pair()
	e.Cleanup(e.keepLease(b))
	never, renewed := e.key("never renewed"), e.key("renewed")
	e.together(2, func(i int) {
		l, r := a.grantFor(e.shortTTL(a))
		answered := time.Now()
		e.promised(r)
		k := []string{never, renewed}[i]
		a.bind(k, "v", l)
		for range 3 * i {
			e.pass(r.TTL / 2)
			next, err := l.Renew(e.ctx, k)
			require.NoError(e, err)
			answered = time.Now()
			e.promised(next)
			if _, ok := next.Entry(k); !ok {
				e.Fatalf("Renew did not read %q, which is bound to the lease", k)
			}
			if next.From.Before(r.From) {
				e.Fatalf("From went back by %v", r.From.Sub(next.From))
			}
			r = next
		}
		e.runsOut(b, k, r, answered)
		_, err := l.Renew(e.ctx)
		e.kind(err, dcs.ErrLost, "Renew of a lease that ran out")
	})
}

func lateAnswer(e *env) {
	a, b := e.pair()
	e.Cleanup(e.keepLease(b))
	k := e.key("lock")
	ctx, cancel := context.WithTimeout(e.ctx, time.Minute)
	defer cancel()
	// The backend's own lease, because a Store's budget would cut the call short.
	l, r, err := a.raw.Grant(ctx, e.shortTTL(a))
	require.NoError(e, err)
	token := a.bind(k, "a", l)
	var sent sending
	lift := e.inject(a, Fault{Do: HoldAnswer, When: func(q Request) bool { return q.Op == "Renew" && sent.first() }})
	// Later copies of the request must not renew anything.
	lose := e.inject(a, Fault{Do: LoseRequest, When: func(q Request) bool {
		at := sent.at.Load()
		return q.Op == "Renew" && at != nil && at.Elapsed() > slack/10
	}})
	var late dcs.Renewal
	done := e.start(func() { late, err = l.Renew(ctx, k) })
	b.awaitGone(k, 2*r.Expiry+2*expiryGrace+e.budget())
	other, _ := b.grant()
	taken := b.bind(k, "b", other)
	lift()
	lose()
	e.within(2*e.budget()+2*r.TTL, done, "Renew returns once its answer has arrived")
	if err != nil {
		return // a failure is one of the two correct results
	}
	if late.From.Elapsed() < late.TTL {
		e.Fatalf("the lease has expired, %q belongs to another client at %d (was %d), and a late answer promises it for %v more", k, taken, token, late.TTL-late.From.Elapsed())
	}
	sent.before(e, "a renewal that was answered late", late)
}

func grantedIsReported(e *env) {
	a, b := e.pair()
	e.Cleanup(e.keepLease(b))
	caps := a.Caps()
	highest := caps.MaxTTL
	if highest == 0 {
		highest = 1<<63 - 1 // no limit
	}
	for _, ttl := range []time.Duration{0, -1, -time.Hour} {
		_, _, err := a.Grant(e.ctx, ttl)
		e.kind(err, dcs.ErrInvalid, fmt.Sprintf("Grant(%v)", ttl))
	}
	for _, ttl := range []time.Duration{1, caps.MinTTL / 2, caps.MinTTL, caps.MaxTTL, caps.MaxTTL + time.Hour, 1<<63 - 1} {
		if ttl <= 0 {
			continue // no such limit, or beyond the largest duration
		}
		l, r := a.grantFor(ttl)
		e.promised(r)
		if r.TTL < caps.MinTTL || r.TTL > highest {
			e.Fatalf("Grant(%v) granted %v; Caps say %v to %v", ttl, r.TTL, caps.MinTTL, highest)
		}
		k := e.key("bound")
		_, err := a.Commit(e.ctx, dcs.Txn{Then: []dcs.Write{dcs.PutLeased(k, []byte("v"), l.ID())}})
		var again dcs.Renewal
		if err == nil {
			again, err = l.Renew(e.ctx, k)
		}
		if e.ranOut(err, r) {
			e.Logf("Grant(%v): the lease of %v ran out before it was renewed", ttl, r.TTL)
			continue
		}
		require.NoError(e, err)
		require.Equal(e, r.TTL, again.TTL, "Renew reports another TTL than Grant(%v)", ttl)
		a.revoke(l)
		b.absent(k, "its lease was revoked")
	}
	l, r := a.grantFor(1)
	answered := time.Now()
	k := e.key("below the minimum")
	_, err := a.Commit(e.ctx, dcs.Txn{Then: []dcs.Write{dcs.PutLeased(k, []byte("v"), l.ID())}})
	if e.ranOut(err, r) {
		e.Logf("the lease of %v ran out before a key was bound to it", r.TTL)
		return
	}
	require.NoError(e, err)
	e.runsOut(b, k, r, answered)
}

func revokedIsLost(e *env) {
	a, b := e.pair()
	l, _ := a.grant()
	k1, k2 := e.key("1"), e.key("2")
	a.bind(k1, "v", l)
	a.bind(k2, "v", l)
	_, err := l.Renew(e.ctx, k1, k2)
	require.NoError(e, err)
	a.revoke(l)
	require.Empty(e, b.snapshot(e.prefix).Entries, "the lease was revoked")
	_, err = l.Renew(e.ctx, k1)
	e.kind(err, dcs.ErrLost, "Renew of a revoked lease")
	a.revoke(l)
	_, err = l.Renew(e.ctx)
	e.kind(err, dcs.ErrLost, "Renew of a lease that was revoked twice")
}

func unknownIsLost(e *env) {
	a, b := e.pair()
	e.Cleanup(e.keepLease(b))
	k := e.key("k")
	l, r := a.grantFor(e.shortTTL(a))
	a.bind(k, "v", l)
	b.awaitGone(k, 2*r.Expiry+expiryGrace)
	for range 3 {
		_, err := l.Renew(e.ctx, k)
		e.kind(err, dcs.ErrLost, "Renew of a lease that ran out")
	}
	b.absent(k, "a refused Renew created it again")
	_, err := a.Commit(e.ctx, dcs.Txn{Then: []dcs.Write{dcs.PutLeased(k, nil, l.ID())}})
	e.kind(err, dcs.ErrLost, "a put bound to it")
	a.revoke(l)
}

func twoInOneStore(e *env) {
	a, b := e.pair()
	l1, _ := a.grant()
	l2, _ := a.grant()
	if l1.ID() == l2.ID() {
		e.Fatalf("two leases have one id: %q", l1.ID())
	}
	k1, k2 := e.key("1"), e.key("2")
	a.bind(k1, "v", l1)
	a.bind(k2, "v", l2)
	r, err := l2.Renew(e.ctx, k1, k2, e.key("absent"))
	require.NoError(e, err)
	require.Len(e, r.Entries, 2, "Renew must read all given keys, whichever lease they are bound to")
	require.Equal(e, l1.ID(), r.Entries[0].Lease)
	a.revoke(l1)
	b.absent(k1, "its lease was revoked")
	require.Equal(e, "v", string(b.get(k2).Value), "the other lease has ended")
	r, err = l2.Renew(e.ctx, k1, k2)
	require.NoError(e, err)
	require.Len(e, r.Entries, 1)
}
