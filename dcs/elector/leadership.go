package elector

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Leadership is the time from an acquisition of the lock to the demotion that ends
// it. All methods are safe for concurrent use.
type Leadership struct {
	store  *dcs.Store
	hold   *dcs.Hold
	ctx    context.Context //nolint:containedctx // it is the context of Promote, which ends with the leadership
	cancel context.CancelFunc
	over   atomic.Bool
}

func newLeadership(store *dcs.Store, hold *dcs.Hold) *Leadership {
	l := &Leadership{store: store, hold: hold}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// Token returns the fencing token. A resource outside the store that refuses
// smaller tokens than it has seen is protected from a former leader. Use the
// present Token for each access, because it may rise while the leadership lasts.
func (l *Leadership) Token() dcs.Revision { return l.hold.Token() }

// Valid reports whether this member leads at this moment: the lock is held, and no
// demotion has begun. It reads the clocks and does no I/O, see [dcs.Hold.Valid].
func (l *Leadership) Valid() bool { return !l.over.Load() && l.hold.Valid() }

// Remaining returns the time until the leadership ends without a further renewal,
// 0 if it is not valid.
func (l *Leadership) Remaining() time.Duration {
	if l.over.Load() {
		return 0
	}
	return l.hold.Remaining()
}

// Done returns a channel that is closed when the demotion begins, or when the
// lock is lost.
func (l *Leadership) Done() <-chan struct{} { return l.ctx.Done() }

// Guard returns the condition that makes a Commit a store-enforced fenced write,
// see [dcs.Hold.Guard].
func (l *Leadership) Guard() dcs.Cond { return l.hold.Guard() }

// Commit commits t under the Guard: the store refuses it with ErrConflict once
// another member has the lock. It may be used until Demote has returned.
func (l *Leadership) Commit(ctx context.Context, t dcs.Txn) (dcs.Revision, error) {
	t.If = append(t.If[:len(t.If):len(t.If)], l.Guard())
	return l.store.Commit(ctx, t)
}

// end ends the leadership for its users. The lock stays.
func (l *Leadership) end() {
	l.over.Store(true)
	l.cancel()
}
