package dcs

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// world is a small correct store. Its clients can be made to misbehave.
type world struct {
	mu      sync.Mutex
	rev     Revision
	granted int
	entries map[string]Entry
	leases  map[LeaseID]Instant // when they expire
	changed chan struct{}
}

func newWorld() *world {
	return &world{entries: map[string]Entry{}, leases: map[LeaseID]Instant{}, changed: make(chan struct{})}
}

// bump starts a new revision and wakes all waiters. Called under mu.
func (w *world) bump() Revision {
	w.rev++
	close(w.changed)
	w.changed = make(chan struct{})
	return w.rev
}

// purge ends the expired leases. Called under mu.
func (w *world) purge() {
	for id, at := range w.leases {
		if at.Elapsed() >= 0 {
			w.endLease(id)
		}
	}
}

func (w *world) endLease(id LeaseID) {
	delete(w.leases, id)
	for key, e := range w.entries {
		if e.Lease == id {
			delete(w.entries, key)
		}
	}
	w.bump()
}

// extend moves the end of a lease and wakes the waiters when it ends.
func (w *world) extend(id LeaseID, ttl time.Duration) {
	w.leases[id] = Now().Add(ttl)
	time.AfterFunc(ttl+time.Millisecond, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.purge()
	})
}

func (w *world) apply(t Txn, rebind bool) (Revision, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.purge()
	for _, c := range t.If {
		e, found := w.entries[c.Key]
		is := e.Modified
		if c.On == Created {
			is = e.Created
		}
		if is != c.Is {
			fail := &Error{Kind: ErrConflict}
			if found {
				fail.Current = &e
			}
			return 0, fail
		}
	}
	if l := t.Lease(); l != "" {
		if _, live := w.leases[l]; !live {
			return 0, &Error{Kind: ErrLost}
		}
	}
	rev := w.bump()
	for _, p := range t.Then {
		if p.Delete {
			delete(w.entries, p.Key)
			continue
		}
		e, found := w.entries[p.Key]
		if !found || (e.Lease != p.Lease && !rebind) {
			e = Entry{Key: p.Key, Created: rev}
		}
		e.Value, e.Lease, e.Modified = slices.Clone(p.Value), p.Lease, rev
		w.entries[p.Key] = e
	}
	return rev, nil
}

func (w *world) get(key string) (Entry, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.purge()
	e, found := w.entries[key]
	return e, found
}

func (w *world) end(id LeaseID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.endLease(id)
}

func (w *world) live() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.purge()
	return len(w.leases)
}

// client is a Backend over a world. A hook, if set, is called with the real operation
// and runs it now, later or never.
type client struct {
	w      *world
	rebind bool
	ops    int

	mu       sync.Mutex
	onRenew  func(ctx context.Context, id LeaseID, do func() (Renewal, error)) (Renewal, error)
	onCommit func(ctx context.Context, t Txn, do func() (Revision, error)) (Revision, error)
	onGrant  func(ctx context.Context, do func() (Lease, Renewal, error)) (Lease, Renewal, error)
	onGet    func(ctx context.Context, key string, do func() (Entry, error)) (Entry, error)
	onRevoke func(ctx context.Context, id LeaseID, do func() error) error
	ttl      time.Duration // the granted TTL, if it is not the requested one
	sent     []Txn
	waits    int
	renewals map[LeaseID]int
	revokes  map[LeaseID]int
	asked    []string // the keys of the last renewal
}

func (c *client) Name() string { return "fake" }
func (c *client) Caps() Caps {
	return Caps{MinTTL: time.Second, MaxTTL: time.Hour, Rebind: c.rebind, MaxTxnOps: c.ops}
}
func (c *client) Close() error { return nil }

func (c *client) hook(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

func (c *client) count(match string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, t := range c.sent {
		if strings.Contains(fmt.Sprint(t), match) {
			n++
		}
	}
	return n
}

func (c *client) renewed(id LeaseID) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.renewals[id]
}

func (c *client) revoked(id LeaseID) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.revokes[id]
}

func (c *client) Get(ctx context.Context, key string) (Entry, error) {
	do := func() (Entry, error) {
		if e, found := c.w.get(key); found {
			return e, nil
		}
		return Entry{}, &Error{Kind: ErrNotFound}
	}
	c.mu.Lock()
	hook := c.onGet
	c.mu.Unlock()
	if hook != nil {
		return hook(ctx, key, do)
	}
	return do()
}

func (c *client) Snapshot(_ context.Context, prefix string) (Snapshot, error) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	return c.w.snapshot(prefix), nil
}

func (w *world) snapshot(prefix string) Snapshot {
	w.purge()
	snap := Snapshot{Revision: w.rev}
	for key, e := range w.entries {
		if Under(prefix, key) {
			snap.Entries = append(snap.Entries, e)
		}
	}
	slices.SortFunc(snap.Entries, func(a, b Entry) int { return strings.Compare(a.Key, b.Key) })
	return snap
}

func (c *client) Wait(ctx context.Context, prefix string, since Revision) (Snapshot, error) {
	c.hook(func() { c.waits++ })
	for {
		c.w.mu.Lock()
		snap, changed := c.w.snapshot(prefix), c.w.changed
		c.w.mu.Unlock()
		if snap.Revision > since {
			return snap, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Snapshot{}, ctx.Err()
		}
	}
}

func (c *client) Commit(ctx context.Context, t Txn) (Revision, error) {
	do := func() (Revision, error) { return c.w.apply(t, c.rebind) }
	c.mu.Lock()
	hook := c.onCommit
	c.sent = append(c.sent, t)
	c.mu.Unlock()
	if hook != nil {
		return hook(ctx, t, do)
	}
	return do()
}

func (c *client) Grant(ctx context.Context, ttl time.Duration) (Lease, Renewal, error) {
	c.mu.Lock()
	hook := c.onGrant
	if c.ttl != 0 {
		ttl = c.ttl
	}
	c.mu.Unlock()
	do := func() (Lease, Renewal, error) {
		from := Now()
		c.w.mu.Lock()
		defer c.w.mu.Unlock()
		c.w.granted++
		l := &fakeLease{c: c, id: LeaseID(fmt.Sprintf("lease-%d", c.w.granted)), ttl: ttl}
		c.w.extend(l.id, ttl)
		return l, Renewal{From: from, TTL: ttl, Expiry: ttl}, nil
	}
	if hook != nil {
		return hook(ctx, do)
	}
	return do()
}

type fakeLease struct {
	c   *client
	id  LeaseID
	ttl time.Duration
}

func (l *fakeLease) ID() LeaseID { return l.id }

func (l *fakeLease) Renew(ctx context.Context, keys ...string) (Renewal, error) {
	do := func() (Renewal, error) {
		from := Now()
		w := l.c.w
		w.mu.Lock()
		defer w.mu.Unlock()
		w.purge()
		if _, live := w.leases[l.id]; !live {
			return Renewal{}, &Error{Kind: ErrLost}
		}
		w.extend(l.id, l.ttl)
		r := Renewal{From: from, TTL: l.ttl, Expiry: l.ttl}
		for _, key := range keys {
			if e, found := w.entries[key]; found {
				r.Entries = append(r.Entries, e)
			}
		}
		return r, nil
	}
	l.c.mu.Lock()
	hook := l.c.onRenew
	if l.c.renewals == nil {
		l.c.renewals = map[LeaseID]int{}
	}
	l.c.renewals[l.id]++
	l.c.asked = keys
	l.c.mu.Unlock()
	if hook != nil {
		return hook(ctx, l.id, do)
	}
	return do()
}

func (l *fakeLease) Revoke(ctx context.Context) error {
	do := func() error {
		if err := ctx.Err(); err != nil {
			return &Error{Kind: ErrUnavailable, Err: err}
		}
		l.c.w.mu.Lock()
		defer l.c.w.mu.Unlock()
		if _, live := l.c.w.leases[l.id]; live {
			l.c.w.endLease(l.id)
		}
		return nil
	}
	l.c.mu.Lock()
	hook := l.c.onRevoke
	if l.c.revokes == nil {
		l.c.revokes = map[LeaseID]int{}
	}
	l.c.revokes[l.id]++
	l.c.mu.Unlock()
	if hook != nil {
		return hook(ctx, l.id, do)
	}
	return do()
}
