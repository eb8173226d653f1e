package state

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/kvtree"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/codec"
)

// FSM is the replicated state: the tree, the time to live of each live lease,
// and the memory that is needed to apply every command at most once (P15).
//
// Raft calls Apply, ApplyBatch, Snapshot and Restore from one goroutine. The
// other methods may be called from any, unless they say otherwise.
type FSM struct {
	tree *kvtree.Tree

	// Raft's goroutine only.
	ttls    map[dcs.LeaseID]time.Duration
	clients clients
	changed []string // the keys that the present entry changed; never nil

	// OnApply is called with each command after its effect is visible, on
	// Raft's goroutine. It must be set before Raft starts.
	OnApply func(c *Command, index, term uint64, r Result)
	// OnChange is called with each entry after its effect is visible, in order,
	// with the keys that it wrote or removed, which are valid until it returns. It
	// is called with nil when the state was replaced by one that contains the
	// entries up to index. It must be set before Raft starts.
	OnChange func(index uint64, keys []string)
	// OnBroken is called, once, when the log holds something this release
	// cannot read. Nothing is applied from then on. It must be set before Raft
	// starts.
	OnBroken func(err error)

	// OnConfiguration is called with each configuration entry when it is committed,
	// on Raft's goroutine. It must be set before Raft starts.
	OnConfiguration func(l *raft.Log)

	onBatch atomic.Pointer[func(index, term uint64)]

	understands byte          // the newest feature level that can be applied
	level       atomic.Uint32 // the feature level of the cluster

	applied atomic.Uint64 // the newest entry whose effect is visible
	term    atomic.Uint64 // the term of that entry

	broken atomic.Pointer[error]

	mu          sync.Mutex
	incarnation [16]byte
	unread      error         // why the last snapshot could not be taken over
	ready       chan struct{} // closed at the next batch; nil while nobody waits
}

var _ raft.BatchingFSM = (*FSM)(nil)

// New returns an empty state.
func New() *FSM {
	f := &FSM{
		tree:        kvtree.New(),
		changed:     []string{},
		understands: Level,
		OnApply:     func(*Command, uint64, uint64, Result) {},
		OnChange:    func(uint64, []string) {},
		OnBroken:    func(error) {},

		OnConfiguration: func(*raft.Log) {},
	}
	f.Reset()
	return f
}

// OnBatch makes f call notify after each batch, on Raft's goroutine, with the
// newest entry whose effect is visible and its term.
func (f *FSM) OnBatch(notify func(index, term uint64)) { f.onBatch.Store(&notify) }

// Tree returns the keys and leases. The caller must not change them.
func (f *FSM) Tree() *kvtree.Tree { return f.tree }

// Applied returns the index of the newest entry whose effect is visible.
func (f *FSM) Applied() uint64 { return f.applied.Load() }

// TTL returns the time to live of a lease, and whether the lease is live. It
// must be called from OnApply.
func (f *FSM) TTL(id dcs.LeaseID) (ttl time.Duration, live bool) {
	ttl, live = f.ttls[id]
	return ttl, live
}

// TTLs returns the time to live of each live lease. It must be called from
// OnApply, and the result is valid until that returns.
func (f *FSM) TTLs() map[dcs.LeaseID]time.Duration { return f.ttls }

// Reset empties f, for a Raft that applies the log again from its beginning or
// from a snapshot. It must be called while Raft does not run.
func (f *FSM) Reset() {
	_ = f.tree.Load(kvtree.State{}) // nothing in it can be wrong
	f.ttls, f.clients = map[dcs.LeaseID]time.Duration{}, newClients()
	f.onBatch.Store(nil)
	f.level.Store(firstLevel)
	f.setIncarnation([16]byte{})
	f.note(nil)
	f.term.Store(0)
	f.applied.Store(0)
	f.OnChange(0, nil)
}

// Apply applies one entry: raft.FSM.
func (f *FSM) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch applies entries in order: raft.BatchingFSM.
func (f *FSM) ApplyBatch(logs []*raft.Log) []any {
	for _, l := range logs {
		if f.Failed() != nil {
			break
		}
		f.entry(l)
	}
	f.wake()
	if s := f.onBatch.Load(); s != nil {
		(*s)(f.applied.Load(), f.term.Load())
	}
	return make([]any, len(logs)) // answers go through OnApply
}

// advance notes that everything up to l is visible.
func (f *FSM) advance(l *raft.Log) {
	f.tree.Advance(dcs.Revision(l.Index))
	f.term.Store(l.Term)
	f.applied.Store(l.Index)
	f.OnChange(l.Index, f.changed)
	f.changed = f.changed[:0]
}

// entry applies one entry, or nothing from there on if it cannot be applied.
func (f *FSM) entry(l *raft.Log) {
	var err error
	switch l.Type {
	case raft.LogCommand:
		err = f.command(l)
	case raft.LogConfiguration:
		err = f.configuration(l)
	default:
		f.advance(l)
	}
	if err != nil {
		f.fail(fmt.Errorf("log entry %d: %w", l.Index, err))
	}
}

// configuration takes over the incarnation of the cluster from its first entry.
func (f *FSM) configuration(l *raft.Log) error {
	incarnation, err := ReadExtensions(l.Extensions)
	if err != nil {
		return err
	}
	if incarnation != ([16]byte{}) {
		if err := f.checkIncarnation(incarnation); err != nil {
			return err
		}
		f.setIncarnation(incarnation)
	}
	f.OnConfiguration(l)
	f.advance(l)
	return nil
}

// command applies one command. The caller that waits for it is answered last:
// the effect of an answered call is in every reading.
func (f *FSM) command(l *raft.Log) error {
	c, err := readCommand(codec.NewDecoder(l.Data, 0), f.understands)
	if err == nil && c.Kind == KindLevel {
		err = f.checkLevel(c.Level)
	}
	if err != nil {
		return err
	}
	r := f.apply(&c, l.Index, l.Term)
	f.advance(l)
	f.OnApply(&c, l.Index, l.Term, r)
	return nil
}

func (f *FSM) apply(c *Command, index, term uint64) Result {
	switch c.Kind {
	case KindOpen:
		f.clients.open(index)
	case KindExpire:
		// P22: an expiry counts only in the term whose leader decided it. A
		// proposal that lingered until that leader was elected again would
		// end leases which were extended since.
		if c.Term == term {
			for _, l := range c.Leases {
				f.end(l, index)
			}
		}
	case KindTxn, KindGrant, KindRevoke, KindCancel:
		client, r, execute := f.clients.once(c, index)
		if execute {
			r = f.execute(c, index)
			client.results[c.Seq] = r
		}
		return r
	case KindLevel:
		f.raise(c.Level)
	case KindTerm:
	}
	return Result{Status: StatusDone, Revision: dcs.Revision(index)}
}

// execute applies a numbered command, for the first and only time.
func (f *FSM) execute(c *Command, index uint64) Result {
	r := Result{Status: StatusDone, Revision: dcs.Revision(index)}
	switch c.Kind {
	case KindTxn:
		return f.commit(c.Txn, index)
	case KindGrant:
		f.tree.Grant(c.Lease)
		f.ttls[c.Lease] = c.TTL
	case KindRevoke:
		f.end(c.Lease, index)
	case KindCancel:
		r.Status = StatusCancelled
	case KindTerm, KindOpen, KindExpire, KindLevel:
	}
	return r
}

func (f *FSM) commit(t dcs.Txn, index uint64) Result {
	for i := range t.Then {
		// The decoder's value is a part of the entry: kept as it is, a small
		// one would keep a large entry in memory.
		t.Then[i].Value = bytes.Clone(t.Then[i].Value)
	}
	r := Result{Status: StatusDone, Revision: dcs.Revision(index)}
	err := f.tree.Commit(r.Revision, t, kvtree.Options{Rebind: true})
	var conflict *kvtree.Conflict
	switch {
	case err == nil:
		for i := range t.Then {
			f.changed = append(f.changed, t.Then[i].Key)
		}
	case errors.As(err, &conflict):
		r.Status, r.Current, r.Detail = StatusConflict, conflict.Current, conflict.Error()
	case errors.Is(err, kvtree.ErrLease): // P14
		r.Status = StatusDeadLease
	default:
		r.Status, r.Detail = StatusNested, err.Error()
	}
	return r
}

func (f *FSM) end(l dcs.LeaseID, index uint64) {
	f.changed = append(f.changed, f.tree.EndLease(dcs.Revision(index), l)...)
	delete(f.ttls, l)
}

func (f *FSM) fail(err error) {
	if f.broken.CompareAndSwap(nil, &err) {
		f.OnBroken(err)
	}
}

// note keeps why a snapshot could not be read: raft's own error leaves it out.
func (f *FSM) note(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unread = err
}

// Unreadable returns why the last snapshot could not be taken over, or nil.
func (f *FSM) Unreadable() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.unread
}

// Failed returns why nothing is applied any more, or nil.
func (f *FSM) Failed() error {
	if err := f.broken.Load(); err != nil {
		return *err
	}
	return nil
}

func (f *FSM) wake() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ready != nil {
		close(f.ready)
		f.ready = nil
	}
}

// Next returns a channel that is closed when the state has moved on.
func (f *FSM) Next() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ready == nil {
		f.ready = make(chan struct{})
	}
	return f.ready
}
