package conformance

import (
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

func fromNotLaterThanSend(e *env) {
	a := e.open()
	k := e.key("k")
	l, r := a.grant()
	a.bind(k, "v", l)
	// Without Inject it can be checked only that From is not later than the answer and not
	// much earlier than the call.
	for range 10 {
		begin := dcs.Now()
		next, err := l.Renew(e.ctx, k)
		require.NoError(e, err)
		e.promised(next)
		if begin.Sub(next.From) > r.TTL {
			e.Fatalf("From lies %v before the call: more than a whole TTL", begin.Sub(next.From))
		}
	}
	if !e.hasInject() {
		return
	}
	e.fromOfRenew(a, l, k)
	e.fromOfGrant(a)
	e.grantAnswerLost(a)
}

// sending is the instant at which one copy of a request was sent.
type sending struct{ at atomic.Pointer[dcs.Instant] }

// first records the time of a copy unless one was recorded before, and reports whether it
// did.
func (f *sending) first() bool {
	now := dcs.Now()
	return f.at.CompareAndSwap(nil, &now)
}

// last records the time of a copy in place of the one before.
func (f *sending) last() {
	now := dcs.Now()
	f.at.Store(&now)
}

// before requires that From of r is not later than the recorded time.
func (f *sending) before(e *env, what string, r dcs.Renewal) {
	at := f.at.Load()
	if at == nil {
		e.Fatalf("%s: nothing was sent", what)
	}
	if at.Before(r.From) {
		e.Fatalf("%s: From is %v later than the request was sent", what, r.From.Sub(*at))
	}
}

// answeredLate makes one call whose requests of the kind op are all answered late, and
// returns its Renewal. sent is called for every copy.
func (e *env) answeredLate(a *client, op string, sent func(), do func() (dcs.Renewal, error)) dcs.Renewal {
	look := e.inject(a, Fault{Do: Pass, When: func(q Request) bool {
		if q.Op == op {
			sent()
		}
		return false
	}})
	lift := e.inject(a, Fault{Do: HoldAnswer, When: on(op)})
	var r dcs.Renewal
	var err error
	done := e.start(func() { r, err = do() })
	e.pass(min(e.budget()/10, 150*time.Millisecond)) // less than any copy is given
	lift()
	e.within(e.budget()+slack, done, op+" returns once its answer has arrived")
	look()
	require.NoError(e, err, "a %s that was answered late", op)
	e.promised(r)
	return r
}

// fromOfRenew delays the answers to renewals. The copy that counts was sent no later than
// the last one.
func (e *env) fromOfRenew(a *client, l dcs.Lease, k string) {
	for range 3 {
		var sent sending
		r := e.answeredLate(a, "Renew", sent.last, func() (dcs.Renewal, error) { return l.Renew(e.ctx, k) })
		sent.before(e, "a renewal answered late", r)
	}
}

// fromOfGrant delays the answer to a Grant. From must be that of the first copy, because
// the lease may run since then.
func (e *env) fromOfGrant(a *client) {
	var sent sending
	r := e.answeredLate(a, "Grant", func() { sent.first() }, func() (dcs.Renewal, error) {
		_, r, err := a.Grant(e.ctx, e.timing.TTL)
		return r, err
	})
	sent.before(e, "a Grant answered late", r)
}

// grantAnswerLost loses the answer to the first copy of a Grant.
func (e *env) grantAnswerLost(a *client) {
	var sent sending
	lift := e.inject(a, Fault{Do: LoseAnswer, When: func(q Request) bool { return q.Op == "Grant" && sent.first() }})
	l, r, err := a.Grant(e.ctx, e.timing.TTL)
	lift()
	if err != nil {
		// A store whose Grant cannot be repeated reports that.
		e.kind(err, dcs.ErrAmbiguous, "a Grant whose answer was lost")
		return
	}
	e.promised(r)
	sent.before(e, "a Grant that took two copies", r)
	next, err := l.Renew(e.ctx)
	require.NoError(e, err, "the lease of a Grant that took two copies")
	e.promised(next)
}
