package elector

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Leadership is the time from an acquisition of the lock to the demotion that ends
// it. It may outlast the lock in a pause and in failsafe mode, see the package
// documentation. All methods are safe for concurrent use.
type Leadership struct {
	store  *dcs.Store
	ctx    context.Context //nolint:containedctx // it is the context of Promote, which ends with the leadership
	cancel context.CancelFunc

	mu    sync.Mutex
	over  bool      // ended for its users
	hold  *dcs.Hold // nil until a service that was found under a keeper has the lock
	guard dcs.Cond
	kept  bool        // the keeper record was confirmed
	until dcs.Instant // failsafe: until when all members have accepted it
}

// newLeadership returns the leadership under hold.
func newLeadership(store *dcs.Store, hold *dcs.Hold) *Leadership {
	l := &Leadership{store: store, hold: hold, guard: hold.Guard()}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// keptLeadership returns the leadership of a service that was found primary under a
// keeper. guard is that of the lock that the keeper's record names.
func keptLeadership(store *dcs.Store, guard dcs.Cond) *Leadership {
	l := &Leadership{store: store, guard: guard, kept: true}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// Token returns the fencing token. A resource outside the store that refuses
// smaller tokens than it has seen is protected from a former leader. Use the
// present Token for each access, because it may rise while the leadership lasts.
func (l *Leadership) Token() dcs.Revision { return l.Guard().Is }

// Valid reports whether this member leads at this moment: the lock is held, and no
// demotion has begun. It reads the clocks and does no I/O, see [dcs.Hold.Valid].
// In failsafe mode it is valid while all members have accepted it. While a leadership lasts under a keeper without the lock, it is not valid.
func (l *Leadership) Valid() bool { return l.Remaining() > 0 }

// Remaining returns the time until the leadership ends without a further renewal,
// 0 if it is not valid.
func (l *Leadership) Remaining() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over || l.hold == nil {
		return 0
	}
	left := l.hold.Remaining()
	if !l.until.IsZero() && -l.until.Elapsed() > left {
		if t := l.termLocked(); t.lost == nil && !t.kept { // not where the lock is lost
			left = -l.until.Elapsed()
		}
	}
	return left
}

// Deadline returns when the leadership ends unless it is renewed before. It returns
// false if it has no deadline: under a keeper, and once it is lost. A process that
// guards the service must stop it at the deadline, and must stop it if the
// leadership is lost.
func (l *Leadership) Deadline() (dcs.Instant, bool) {
	t := l.term()
	return t.deadline, t.lost == nil && !t.kept
}

// Done returns a channel that is closed when the demotion begins, or when the
// leadership is lost.
func (l *Leadership) Done() <-chan struct{} { return l.ctx.Done() }

// Guard returns the condition that makes a Commit a store-enforced fenced write,
// see [dcs.Hold.Guard].
func (l *Leadership) Guard() dcs.Cond {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.guard
}

// Commit commits t under the Guard: the store refuses it with ErrConflict once
// another member has the lock. It may be used until Demote has returned.
func (l *Leadership) Commit(ctx context.Context, t dcs.Txn) (dcs.Revision, error) {
	t.If = append(t.If[:len(t.If):len(t.If)], l.Guard())
	return l.store.Commit(ctx, t)
}

// term is how long a leadership lasts, at one moment. One of its fields is set.
type term struct {
	deadline dcs.Instant
	kept     bool  // under a keeper, without a deadline
	lost     error // it lasts no longer, and another member may lead
}

// errKeeperGone is why a leadership without a lock is lost.
var errKeeperGone = errors.New("the keeper record of this member is gone")

// term returns how long the leadership lasts. It does not depend on its users' view:
// the lock goes on protecting a service that is being demoted.
func (l *Leadership) term() term {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.termLocked()
}

func (l *Leadership) termLocked() term {
	if l.hold == nil {
		if l.kept {
			return term{kept: true}
		}
		return term{lost: errKeeperGone}
	}
	err := l.hold.Err()
	switch {
	case err != nil && !errors.Is(err, dcs.ErrExpired):
		return term{lost: err} // E2: also under a keeper
	case l.kept:
		return term{kept: true}
	case !l.until.IsZero() && l.until.Elapsed() < 0 && (err != nil || l.hold.Deadline().Before(l.until)):
		return term{deadline: l.until} // F2
	case err != nil:
		return term{lost: err}
	}
	return term{deadline: l.hold.Deadline()}
}

// expire ends the leadership for its users if it is lost, or if it lasts for less than
// d. It reports whether the leadership is over for them.
func (l *Leadership) expire(d time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.termLocked()
	if !l.over && !t.kept && (t.lost != nil || -t.deadline.Elapsed() <= d) {
		l.over = true
		l.cancel()
	}
	return l.over
}

// keep sets whether the leadership outlasts its lock. One that is over does not.
func (l *Leadership) keep(on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kept = on && (!l.over || l.kept)
}

// agree sets until when the members have accepted the leadership; the zero Instant
// takes their acceptances back. It returns false if the leadership is over or lost, and
// nothing extends it then.
func (l *Leadership) agree(until dcs.Instant) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !until.IsZero() && (l.over || l.termLocked().lost != nil) { // F2: answers to a process that was stopped come late
		return false
	}
	l.until = until
	return true
}

// agreed returns until when the members have accepted the leadership.
func (l *Leadership) agreed() dcs.Instant {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.until
}

// use puts the leadership under another Hold, which has a higher token.
func (l *Leadership) use(h *dcs.Hold) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hold, l.guard = h, h.Guard()
}

// end ends the leadership for its users. The lock stays.
func (l *Leadership) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
	l.cancel()
}
