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

// A lease that is not renewed any more, because its holder knows that it is
// lost, would keep its session and the library's goroutines for ever: only
// ZooKeeper can report that a session is over, and nothing asks ZooKeeper. So
// the session of a lease is ended once it was not renewed for longer than its
// keys can stay.

// errIdle is the error of a Renew while the session is being ended. It is not
// known yet whether the lease's keys are gone.
var errIdle = errors.New("the lease was not renewed for longer than its keys can stay; the session is being ended")

// begin starts a Renew. It fails while the session is being ended, because a
// renewal must not be confirmed for a session that is about to end (P4).
func (l *lease) begin() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ending && l.s.ended() == nil {
		return &backend.Failure{Err: errIdle, Refused: true}
	}
	l.renewing++
	l.lastRenew = dcs.Now()
	return nil
}

// finish ends a Renew.
func (l *lease) finish() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.renewing--
	l.lastRenew = dcs.Now()
}

// idleAfter returns how long a lease may go without a Renew.
func (l *lease) idleAfter() time.Duration {
	return expiry.ZooKeeper(l.ttl, l.b.limits().tick) + l.b.c.Timing.RetryTimeout
}

// expire reports whether the lease's session must be ended, and otherwise when
// to call expire again.
func (l *lease) expire() (after time.Duration, ending bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	after = l.idleAfter() - l.lastRenew.Elapsed()
	if l.renewing > 0 {
		after = max(after, l.b.c.Timing.RetryTimeout)
	}
	l.ending = after <= 0
	return after, l.ending
}

// bury ends the session, and retries until ZooKeeper has confirmed that the
// session is over.
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
