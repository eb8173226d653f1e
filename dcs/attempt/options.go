package attempt

import (
	"crypto/rand"
	"io"
	"time"
)

// Options configure a Committer. The zero value works.
type Options struct {
	// Backend is the name that errors carry.
	Backend string
	// Slots is the number of markers, and so of Commits in flight at once;
	// further ones wait for a slot. A marker is made when its slot is first
	// used. Zero means that the number follows the load: 8, and another one, up
	// to 64, whenever as many Commits wait as there are slots.
	Slots int
	// Prefix is where markers live; it must be hidden from Get, Snapshot and
	// Wait. Empty means ".op". A backend that sweeps its markers gives each
	// Committer a prefix of its own and removes all there is below it: a late
	// copy can make a marker whose name is not in use any more.
	Prefix string
	// HedgeAfter says how long a copy may stay unanswered before a second one
	// is sent beside it; it is asked at each sending, so that it can follow
	// the store's latency. Nil, or a result <= 0, means never.
	HedgeAfter func() time.Duration
	// Hedge is asked when that time is over: false means that the second copy
	// is not sent now, and HedgeAfter is asked again. Nil means always true.
	Hedge func() bool
	// ResendAfter says how long a copy may stay unanswered before another one
	// is sent beside it, hedge or not, with left to go and after so many
	// rounds (see [Request]). Nil, or a result <= 0, means not before it ends.
	ResendAfter func(left time.Duration, round int) time.Duration
	// AttemptTimeout bounds one copy. Zero means a third of what is left of
	// the budget when it is sent.
	AttemptTimeout time.Duration
	// SettleReserve is the part at the end of a Commit's budget in which
	// nothing is sent any more but what settles it. Zero means a quarter of
	// the budget; it is never more than half.
	SettleReserve time.Duration
	// ModifiedOnly says that the store can check only Modified: a condition on
	// Created is resolved by a read, again and again while it holds.
	ModifiedOnly bool
	// Duplicates says that what Send sends may arrive more than once, some of
	// it late: through a proxy that repeats requests, or a client library that
	// cannot be told not to. A refusal of one arrival then says nothing of the
	// next one. Every refusal therefore costs one more transaction, which wins
	// the marker, and a marker that is lost after a copy was sent is
	// [dcs.ErrAmbiguous].
	Duplicates bool
	// Rand is where names, nonces and jitter come from; nil means crypto/rand.
	// A test that wants the same run twice gives a seeded one. It is read
	// under a lock.
	Rand io.Reader
}

const (
	initialSlots  = 8
	maxSlots      = 64
	defaultPrefix = ".op"
	// inFlight bounds the unanswered copies of one request.
	maxUnanswered = 2
	// The back-off between failed copies, before jitter.
	minBackoff = 5 * time.Millisecond
	maxBackoff = 250 * time.Millisecond
	// leastAttempt keeps the share of a nearly spent budget from being too
	// short to be answered at all.
	minAttemptTimeout = 10 * time.Millisecond
	// noDeadline stands in for what is left where a context has no deadline.
	noDeadline = 3 * time.Second
)

func (o Options) withDefaults() Options {
	if o.Prefix == "" {
		o.Prefix = defaultPrefix
	}
	if o.HedgeAfter == nil {
		o.HedgeAfter = func() time.Duration { return 0 }
	}
	if o.Hedge == nil {
		o.Hedge = func() bool { return true }
	}
	if o.ResendAfter == nil {
		o.ResendAfter = func(time.Duration, int) time.Duration { return 0 }
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	return o
}

// pool returns the pool of slots.
func (o Options) pool() pool {
	if o.Slots > 0 {
		return pool{initial: o.Slots, limit: o.Slots}
	}
	return pool{initial: initialSlots, limit: maxSlots}
}

// reserve returns the part of budget that is kept for settling.
func (o Options) reserve(budget time.Duration) time.Duration {
	if o.SettleReserve > 0 {
		return min(o.SettleReserve, budget/2)
	}
	return budget / 4
}

// attemptTimeout returns the time for a copy that is sent with left to go.
func (o Options) attemptTimeout(left time.Duration) time.Duration {
	if o.AttemptTimeout > 0 {
		return o.AttemptTimeout
	}
	return max(left/3, minAttemptTimeout)
}
