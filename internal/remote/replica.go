package remote

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/kv"
)

// Source is the store that a Replica is a copy of.
type Source struct {
	// Backend is the name for errors, Budget is Timing.RetryTimeout, and Life
	// ends when the Store is closed.
	Backend string
	Budget  time.Duration
	Life    context.Context //nolint:containedctx // the Backend's end

	// Read returns the tree as it is, bookkeeping left out, within ctx. Nil means
	// that Follow reads it, and gives it to Take.
	Read func(ctx context.Context) (dcs.Snapshot, error)
	// Snapshot is the Backend's own.
	Snapshot func(ctx context.Context, prefix string) (dcs.Snapshot, error)
	// Raise reports whether rev is not older than what the Store has returned,
	// and remembers it.
	Raise func(rev dcs.Revision) bool
	// Still reports whether nothing at or below prefix was deleted since a
	// revision that is older than the copy; now are the keys that are there.
	// False means that it cannot be told.
	Still func(ctx context.Context, prefix string, since dcs.Revision, now map[string]bool) bool
	// Blame counts a fault of a server, for the Pool. Nil where no server's
	// failure is Unconfirmed.
	Blame func(endpoint, reason string)
	// Follow is one watch at one server, until it fails: what it tells goes
	// into the Tree, and Alive says that it told something.
	Follow func(ctx context.Context) error
}

// Replica is a copy of a store's tree, fed by one watch at a time, which
// serves every Wait of a Store. It is started by the first Wait.
type Replica struct {
	Source
	Tree *kv.Tree
	// Every is how long a watch may tell nothing before its server is asked
	// whether it is there; Limit how long its view may lag behind.
	Every, Limit time.Duration
	// Behind is told when another answer named a later revision than the
	// Tree's, Left which servers the Pool left out.
	Behind chan struct{}
	Left   chan string

	start   sync.Once
	done    sync.WaitGroup
	latest  atomic.Uint64 // the largest revision that any answer named
	running atomic.Bool

	mu     sync.Mutex
	synced bool          // the Tree is a copy
	base   dcs.Revision  // what was before is not in it
	heard  dcs.Instant   // when the watch last knew that the store serves
	fault  error         // why it does not
	final  bool          // fault is the store's own word
	change chan struct{} // closed when any of these changes
}

// Init makes r ready.
func (r *Replica) Init(s Source) {
	r.Source, r.Tree = s, kv.New()
	r.Every, r.Limit = WatchTimes(s.Budget)
	r.Behind, r.Left, r.change = make(chan struct{}, 1), make(chan string, 16), make(chan struct{})
}

// WatchTimes returns a Replica's Every and Limit for a budget.
func WatchTimes(budget time.Duration) (every, limit time.Duration) {
	return min(maxProbePause, budget/4), min(maxLag, budget/6)
}

const (
	maxProbePause = 2500 * time.Millisecond
	maxLag        = 500 * time.Millisecond
)

// Close waits for the watch, once Life has ended.
func (r *Replica) Close() {
	r.start.Do(func() {}) // none is started any more
	r.done.Wait()
}

// Saw is told of the revision in every answer.
func (r *Replica) Saw(rev dcs.Revision) {
	for {
		latest := r.latest.Load()
		if uint64(rev) <= latest {
			return
		}
		if r.latest.CompareAndSwap(latest, uint64(rev)) {
			break
		}
	}
	if r.running.Load() && r.Tree.Revision() < rev {
		select {
		case r.Behind <- struct{}{}:
		default:
		}
	}
}

// Latest is the largest revision that any answer named.
func (r *Replica) Latest() dcs.Revision { return dcs.Revision(r.latest.Load()) }

// Observer is the Pool's: it tells the watch which servers were left out, and
// passes every decision on to next, which may be nil.
func (r *Replica) Observer(next func(dcs.EndpointEvent)) func(dcs.EndpointEvent) {
	return func(ev dcs.EndpointEvent) {
		if ev.Change == dcs.Ejected || ev.Change == dcs.Removed {
			select {
			case r.Left <- ev.From:
			default:
			}
		}
		if next != nil {
			next(ev)
		}
	}
}

// Wait is the Backend's.
func (r *Replica) Wait(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, error) {
	r.start.Do(func() {
		r.mu.Lock()
		r.heard = dcs.Now()
		r.mu.Unlock()
		r.running.Store(true)
		r.done.Add(1)
		go r.run()
	})
	began := dcs.Now()
	watch := r.Tree.Watch(prefix)
	defer watch.Stop()
	for {
		moved := watch.Moved()
		synced, change, silent, fault, final := r.state(began)
		if err := r.over(ctx, prefix, silent, fault, final); err != nil {
			return dcs.Snapshot{}, err
		}
		if base := r.Begins(); synced && since < base {
			switch was, err := r.before(ctx, prefix, since); {
			case err != nil:
				return dcs.Snapshot{}, err
			case was == unchanged:
				since = base
			case was == unclear:
				// What may have been changed meanwhile may not be in the copy yet.
				if s, ok, err := r.fresh(ctx, prefix, since); ok || err != nil {
					return s, err
				}
			}
		}
		if synced && r.Tree.MovedSince(prefix, since) {
			s, ok, err := r.answer(ctx, prefix, since)
			if ok || err != nil {
				return s, err
			}
		}
		r.sleep(ctx, moved, change, r.Budget-silent)
	}
}

// Begins is the revision from which on the copy knows what changed; 0 before
// there is one.
func (r *Replica) Begins() dcs.Revision {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.base
}

// past is what is known of the time before the copy's beginning.
type past uint8

const (
	changed   past = iota // the copy shows it
	unchanged             // the store says so
	unclear               // it cannot be told
)

// before says whether anything changed between since and the copy's beginning,
// which the copy cannot always tell.
func (r *Replica) before(ctx context.Context, prefix string, since dcs.Revision) (past, error) {
	now := map[string]bool{}
	for _, e := range r.Tree.Snapshot(prefix).Entries {
		if e.Modified > since {
			return changed, nil
		}
		now[e.Key] = true
	}
	if since == 0 {
		return changed, nil
	}
	one, cancel := context.WithTimeout(ctx, r.Budget)
	defer cancel()
	was := unclear
	if r.Still(one, prefix, since, now) {
		was = unchanged
	}
	return was, ctx.Err()
}

// state is what a Wait that began at began has to know.
func (r *Replica) state(began dcs.Instant) (synced bool, change <-chan struct{}, silent time.Duration, fault error, final bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	heard := r.heard
	if heard.Before(began) {
		heard = began
	}
	return r.synced, r.change, heard.Elapsed(), r.fault, r.final
}

// over returns what ends a Wait, or nil.
func (r *Replica) over(ctx context.Context, prefix string, silent time.Duration, fault error, final bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if r.Life.Err() != nil {
		return &dcs.Error{Backend: r.Backend, Op: "Wait", Key: prefix, Kind: dcs.ErrClosed}
	}
	if final || silent >= r.Budget {
		if fault == nil {
			fault = errors.New("the watch is silent")
		}
		return Kinded(r.Backend, "Wait", prefix, "", fault)
	}
	return nil
}

func (r *Replica) sleep(ctx context.Context, moved, change <-chan struct{}, d time.Duration) {
	t := time.NewTimer(max(d, time.Millisecond))
	defer t.Stop()
	select {
	case <-moved:
	case <-change:
	case <-t.C:
	case <-ctx.Done():
	case <-r.Life.Done():
	}
}

// answer is the Snapshot that ends a Wait: the copy's, or, where the Store has
// returned a later one already, the store's own.
func (r *Replica) answer(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, bool, error) {
	s := r.Tree.Snapshot(prefix)
	if s.Revision > since && r.Raise(s.Revision) {
		return Visible(prefix, s), true, nil
	}
	if s.Revision <= since {
		return s, false, nil
	}
	return r.fresh(ctx, prefix, since)
}

// fresh is the store's own Snapshot, if it is later than since.
func (r *Replica) fresh(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, bool, error) {
	one, cancel := context.WithTimeout(ctx, r.Budget)
	defer cancel()
	s, err := r.Snapshot(one, prefix)
	if err != nil && ctx.Err() != nil {
		return s, false, ctx.Err()
	}
	return s, err == nil && s.Revision > since, err
}

// set changes what Waits see.
func (r *Replica) set(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
	close(r.change)
	r.change = make(chan struct{})
}

// Alive notes that the store was heard of.
func (r *Replica) Alive() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.heard, r.fault, r.final = dcs.Now(), nil, false
}

// Take makes the Tree what was read of the whole of it at rev, sorted and with
// bookkeeping left out, and notes that the store was heard of. It fails like
// [Replica.Apply].
func (r *Replica) Take(rev dcs.Revision, entries []dcs.Entry) error {
	if !r.isCopy() {
		r.begin(rev, entries)
		return nil
	}
	wrote, deleted := r.Changes(entries)
	return r.Apply(rev, wrote, deleted)
}

// Apply takes over what changed in the tree up to rev, and notes that the store
// was heard of. It fails if something changed and rev is not later than the
// Tree's: the change is then older than the Tree, or the store's revisions have
// fallen, and no revision must be invented for it.
func (r *Replica) Apply(rev dcs.Revision, wrote []dcs.Entry, deleted []string) error {
	now := r.Tree.Revision()
	switch {
	case len(wrote)+len(deleted) == 0:
		r.Tree.Advance(rev)
	case rev <= now:
		return fmt.Errorf("%w: the tree at revision %d is not that of revision %d, which was seen before", ErrBehind, rev, now)
	default:
		r.Tree.Follow(rev, wrote, deleted)
	}
	r.Alive()
	return nil
}

// ErrBehind says that a server's view is older than the copy of the tree.
var ErrBehind = errors.New("the server's view lags behind the store's")

// Changes compares the Tree with entries, all that there are, sorted by key.
func (r *Replica) Changes(entries []dcs.Entry) (wrote []dcs.Entry, deleted []string) {
	before := r.Tree.Snapshot("").Entries
	for _, e := range entries {
		for len(before) > 0 && before[0].Key < e.Key {
			deleted = append(deleted, before[0].Key)
			before = before[1:]
		}
		same := len(before) > 0 && before[0].Key == e.Key
		if !same || before[0].Modified != e.Modified {
			wrote = append(wrote, e)
		}
		if same {
			before = before[1:]
		}
	}
	for _, e := range before {
		deleted = append(deleted, e.Key)
	}
	return wrote, deleted
}

// Forget says that the Tree is no copy any more: it is read anew before the
// next Follow.
func (r *Replica) Forget() { r.set(func() { r.synced = false }) }

// run keeps the watch going until the Store is closed.
func (r *Replica) run() {
	defer r.done.Done()
	ctx := r.Life
	for n := 0; ctx.Err() == nil; n++ {
		began := dcs.Now()
		err := r.sync(ctx)
		final := isFinal(err) || isRefusal(err) // all servers that could be reached were asked
		if err == nil {
			r.forgetLeft()
			err = r.Follow(ctx)
			final = isFinal(err)
			if isRefusal(err) {
				err, final = r.confirm(ctx, err)
			}
		}
		if ctx.Err() != nil {
			break
		}
		r.set(func() { r.fault, r.final = err, final })
		if began.Elapsed() > time.Second {
			n = 0
		}
		Pause(ctx, rand.N(min(5*time.Millisecond<<min(n, 10), 250*time.Millisecond))) //nolint:gosec // G404: jitter
	}
	r.set(func() { r.fault = dcs.ErrClosed })
}

// forgetLeft drops the servers that the Pool left out before a watch began: one of
// them may be the server of the new watch, which serves again.
func (r *Replica) forgetLeft() {
	for {
		select {
		case <-r.Left:
		default:
			return
		}
	}
}

// sync makes the Tree a copy, if it is none.
func (r *Replica) sync(ctx context.Context) error {
	if r.isCopy() || r.Read == nil {
		return nil
	}
	one, cancel := context.WithTimeout(ctx, r.Budget)
	defer cancel()
	s, err := r.Read(one)
	if err != nil {
		return err
	}
	r.begin(s.Revision, s.Entries)
	return nil
}

// begin makes the Tree a copy.
func (r *Replica) begin(rev dcs.Revision, entries []dcs.Entry) {
	r.Tree.CopyFrom(rev, entries)
	r.set(func() { r.synced, r.base, r.heard, r.fault, r.final = true, rev, dcs.Now(), nil, false })
}

func (r *Replica) isCopy() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.synced
}

// Pause waits for d, or until ctx ends.
func Pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
