package attempt

import (
	"crypto/rand"
	"io"
	"time"
)

// Options configure a Committer. The zero value works.
type Options struct {
	// Backend is the name of the backend in errors.
	Backend string
	// Slots is the number of markers, and so the largest number of Commits in
	// flight. Further Commits wait for a slot. A marker is created when its slot is
	// first used. Zero means that the number follows the load: it begins with 8,
	// and one is added, up to 64, whenever as many Commits wait as there are slots.
	Slots int
	// Prefix is the path below which markers are created. It must be hidden from
	// Get, Snapshot and Wait. Empty means ".op". A backend that deletes left-over
	// markers must give each Committer a prefix of its own and delete all keys
	// below it, because a late copy can create a marker whose name is not in use
	// any more.
	Prefix string
	// HedgeAfter returns how long a copy may stay unanswered before a second one
	// is sent at the same time. It is called at each sending, so that the time can
	// follow the store's latency. Nil, or a result <= 0, means never.
	HedgeAfter func() time.Duration
	// Hedge is called when that time has passed. False means that the second copy
	// is not sent now, and HedgeAfter is called again. Nil means always true.
	Hedge func() bool
	// ResendAfter returns how long a copy may stay unanswered before another one
	// is sent at the same time, in addition to hedges. left is the time left for
	// sending, and round counts the copies without hedges (see [Request]). Nil, or
	// a result <= 0, means that no copy is sent before the last one has ended.
	ResendAfter func(left time.Duration, round int) time.Duration
	// AttemptTimeout bounds one copy. Zero means a third of the budget that is
	// left when the copy is sent.
	AttemptTimeout time.Duration
	// SettleReserve is the last part of a Commit's budget. In it only the requests
	// that settle the Commit are sent. Zero means a quarter of the budget. It is
	// never more than half.
	SettleReserve time.Duration
	// ModifiedOnly reports that the store can check only Modified. A condition on
	// Created is then resolved by a read, repeatedly while it holds.
	ModifiedOnly bool
	// Duplicates reports that a copy may arrive more than once and late, through a
	// proxy that repeats requests, or a client library that cannot be kept from
	// it. A refusal of one arrival then proves nothing about the next one. Every
	// refusal therefore costs one more transaction, which takes the marker, and a
	// marker that is lost after a copy was sent is [dcs.ErrAmbiguous].
	Duplicates bool
	// Rand is the source of names, nonces and jitter. Nil means crypto/rand. A test
	// that needs repeatable runs passes a seeded one. It is read under a lock.
	Rand io.Reader
}

const (
	initialSlots  = 8
	maxSlots      = 64
	defaultPrefix = ".op"
	// maxUnanswered bounds the unanswered copies of one request.
	maxUnanswered = 2
	// The back-off between failed copies, before jitter.
	minBackoff = 5 * time.Millisecond
	maxBackoff = 250 * time.Millisecond
	// minAttemptTimeout is the least time of a copy. A share of a nearly spent
	// budget could be too short for any answer.
	minAttemptTimeout = 10 * time.Millisecond
	// noDeadline replaces the time left if a context has no deadline.
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

// reserve returns the part of budget that is reserved for settling.
func (o Options) reserve(budget time.Duration) time.Duration {
	if o.SettleReserve > 0 {
		return min(o.SettleReserve, budget/2)
	}
	return budget / 4
}

// attemptTimeout returns the timeout of a copy that is sent with left to go.
func (o Options) attemptTimeout(left time.Duration) time.Duration {
	if o.AttemptTimeout > 0 {
		return o.AttemptTimeout
	}
	return max(left/3, minAttemptTimeout)
}
