package zookeeper

import (
	"context"
	"errors"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/backoff"
	"github.com/holdfast-dcs/holdfast/internal/expiry"
)

// A lease that nobody renews any more, because its holder knows that it is lost,
// would keep its session and the library's goroutines for ever: only ZooKeeper
// can say that a session is over, and nothing asks it. So the session of a lease
// that was not renewed for longer than its keys can stay is ended.

// errIdle is what a Renew brings while the session is being ended. Whether its
// keys are gone is not known yet.
var errIdle = errors.New("the lease was not renewed for longer than its keys can stay, and its session is being ended")

// begin begins a Renew. It fails once the session is being ended, because a
// renewal must not be confirmed before that (P4).
func (l *lease) begin() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ending && l.s.ended() == nil {
		return &backend.Failure{Err: errIdle, Refused: true}
	}
	l.renewing++
	l.told = dcs.Now()
	return nil
}

// finish ends a Renew.
func (l *lease) finish() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.renewing--
	l.told = dcs.Now()
}

// idleAfter is how long a lease may go without a Renew.
func (l *lease) idleAfter() time.Duration {
	return expiry.ZooKeeper(l.ttl, l.b.limits().tick) + l.b.c.Timing.RetryTimeout
}

// expire reports whether the lease's session is to be ended, and otherwise when
// to ask again.
func (l *lease) expire() (after time.Duration, ending bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	after = l.idleAfter() - l.told.Elapsed()
	if l.renewing > 0 {
		after = max(after, l.b.c.Timing.RetryTimeout)
	}
	l.ending = after <= 0
	return after, l.ending
}

// bury ends the session, trying again until ZooKeeper has said that it is over.
func (l *lease) bury() {
	pauses := backoff.Exponential{First: l.b.c.Timing.LoopWait, Most: l.b.c.Timing.TTL}
	for failures := 0; l.s.ended() == nil && l.b.life.Err() == nil; failures++ {
		ctx, cancel := context.WithTimeout(l.b.life, l.b.c.Timing.RetryTimeout)
		err := l.Revoke(ctx)
		cancel()
		if err != nil {
			pauses.Wait(l.b.life, failures)
		}
	}
}
