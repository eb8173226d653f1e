package dcs

import (
	"context"
	"sync/atomic"
	"time"
)

// scripted is a Backend whose answers a test provides. A method without a script fails
// the call with an error that matches no sentinel.
type scripted struct {
	caps     Caps
	get      func(context.Context, string) (Entry, error)
	snapshot func(context.Context, string) (Snapshot, error)
	wait     func(context.Context, string, Revision) (Snapshot, error)
	commit   func(context.Context, Txn) (Revision, error)
	grant    func(context.Context, time.Duration) (Lease, Renewal, error)
	settle   func(context.Context, *Error) (Revision, error)
	closeErr error

	sent   atomic.Int64 // calls that reached the backend
	closed atomic.Int64
}

type unscripted string

func (u unscripted) Error() string { return "no script for " + string(u) }

func (b *scripted) Name() string { return "scripted" }

func (b *scripted) Get(ctx context.Context, key string) (Entry, error) {
	b.sent.Add(1)
	if b.get == nil {
		return Entry{}, unscripted("Get")
	}
	return b.get(ctx, key)
}

func (b *scripted) Snapshot(ctx context.Context, prefix string) (Snapshot, error) {
	b.sent.Add(1)
	if b.snapshot == nil {
		return Snapshot{}, unscripted("Snapshot")
	}
	return b.snapshot(ctx, prefix)
}

func (b *scripted) Wait(ctx context.Context, prefix string, since Revision) (Snapshot, error) {
	b.sent.Add(1)
	if b.wait == nil {
		return Snapshot{}, unscripted("Wait")
	}
	return b.wait(ctx, prefix, since)
}

func (b *scripted) Commit(ctx context.Context, t Txn) (Revision, error) {
	b.sent.Add(1)
	if b.commit == nil {
		return 0, unscripted("Commit")
	}
	return b.commit(ctx, t)
}

func (b *scripted) Grant(ctx context.Context, ttl time.Duration) (Lease, Renewal, error) {
	b.sent.Add(1)
	if b.grant == nil {
		return nil, Renewal{}, unscripted("Grant")
	}
	return b.grant(ctx, ttl)
}

func (b *scripted) Caps() Caps { return b.caps }

func (b *scripted) Close() error {
	b.closed.Add(1)
	return b.closeErr
}

// scriptedSettler is a scripted Backend that can settle.
type scriptedSettler struct{ scripted }

func (b *scriptedSettler) Settle(ctx context.Context, e *Error) (Revision, error) {
	b.sent.Add(1)
	if b.settle == nil {
		return 0, unscripted("Settle")
	}
	return b.settle(ctx, e)
}

// scriptedLease is a Lease whose answers a test provides.
type scriptedLease struct {
	renew  func(context.Context, []string) (Renewal, error)
	revoke func(context.Context) error
}

func (l *scriptedLease) ID() LeaseID { return "lease-1" }

func (l *scriptedLease) Renew(ctx context.Context, keys ...string) (Renewal, error) {
	if l.renew == nil {
		return Renewal{}, unscripted("Renew")
	}
	return l.renew(ctx, keys)
}

func (l *scriptedLease) Revoke(ctx context.Context) error {
	if l.revoke == nil {
		return unscripted("Revoke")
	}
	return l.revoke(ctx)
}
