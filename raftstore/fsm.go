package raftstore

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/kv"
)

// fsm is the replicated state: the tree, the time to live of each live lease,
// and what is needed to apply every command at most once. It reads no clock
// and no randomness, so that it is the same on every node.
//
// Raft calls it from one goroutine. The tree may be read from any.
type fsm struct {
	tree *kv.Tree

	// Raft's goroutine only.
	ttls    map[dcs.LeaseID]time.Duration
	clients clients

	// onApply is told of each command after its effect is visible, on Raft's
	// goroutine.
	onApply func(c *command, index, term uint64, r result)
	// onBroken is told, once, that the log holds something this release can
	// not read. Nothing is applied from then on.
	onBroken func(err error)

	// onBatch is told of each batch, on Raft's goroutine; it may be nil.
	onBatch atomic.Pointer[notices]

	applied atomic.Uint64 // the newest entry whose effect is visible
	term    atomic.Uint64 // the term of that entry

	broken atomic.Pointer[error]

	mu     sync.Mutex
	unread error         // why the last snapshot could not be taken over
	ready  chan struct{} // closed at the next batch; nil while nobody waits
}

var _ raft.BatchingFSM = (*fsm)(nil)

func newFSM() *fsm {
	return &fsm{
		tree:     kv.New(),
		ttls:     map[dcs.LeaseID]time.Duration{},
		clients:  newClients(),
		onApply:  func(*command, uint64, uint64, result) {},
		onBroken: func(error) {},
	}
}

// Apply applies one entry: raft.FSM.
func (f *fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch applies entries in order: raft.BatchingFSM.
func (f *fsm) ApplyBatch(logs []*raft.Log) []any {
	for _, l := range logs {
		if f.failed() != nil {
			break
		}
		if l.Type != raft.LogCommand {
			f.advance(l)
		} else if !f.command(l) {
			break
		}
	}
	f.wake()
	if s := f.onBatch.Load(); s != nil {
		s.applied(f.applied.Load(), f.term.Load())
	}
	return make([]any, len(logs)) // answers go through onApply
}

// advance notes that everything up to l is visible.
func (f *fsm) advance(l *raft.Log) {
	f.tree.Advance(dcs.Revision(l.Index))
	f.term.Store(l.Term)
	f.applied.Store(l.Index)
}

// command applies one command and reports whether it could be read. Who waits
// for it is answered last: an answered call's effect is in every reading.
func (f *fsm) command(l *raft.Log) bool {
	c, err := decodeCommand(l.Data)
	if err != nil {
		f.fail(fmt.Errorf("log entry %d: %w", l.Index, err))
		return false
	}
	r := f.apply(&c, l.Index, l.Term)
	f.advance(l)
	f.onApply(&c, l.Index, l.Term, r)
	return true
}

func (f *fsm) apply(c *command, index, term uint64) result {
	switch c.kind {
	case cmdOpen:
		f.clients.open(index)
	case cmdExpire:
		// P22: an expiry counts only in the term whose leader decided it. A
		// proposal that lingered until that leader was elected anew would
		// end leases which were extended since.
		if c.term == term {
			for _, l := range c.leases {
				f.end(l, index)
			}
		}
	case cmdTxn, cmdGrant, cmdRevoke, cmdCancel:
		client, r, execute := f.clients.once(c, index)
		if execute {
			r = f.execute(c, index)
			client.results[c.seq] = r
		}
		return r
	case cmdTerm:
	}
	return result{status: statusDone, revision: dcs.Revision(index)}
}

// execute applies a numbered command, for the first and only time.
func (f *fsm) execute(c *command, index uint64) result {
	r := result{status: statusDone, revision: dcs.Revision(index)}
	switch c.kind {
	case cmdTxn:
		return f.commit(c.txn, index)
	case cmdGrant:
		f.tree.Grant(c.lease)
		f.ttls[c.lease] = c.ttl
	case cmdRevoke:
		f.end(c.lease, index)
	case cmdCancel:
		r.status = statusCancelled
	case cmdTerm, cmdOpen, cmdExpire:
	}
	return r
}

func (f *fsm) commit(t dcs.Txn, index uint64) result {
	r := result{status: statusDone, revision: dcs.Revision(index)}
	err := f.tree.Commit(r.revision, t, kv.Options{Rebind: true})
	var conflict *kv.Conflict
	switch {
	case err == nil:
	case errors.As(err, &conflict):
		r.status, r.current, r.detail = statusConflict, conflict.Current, conflict.Error()
	case errors.Is(err, kv.ErrLease): // P14
		r.status = statusDeadLease
	default:
		r.status, r.detail = statusNested, err.Error()
	}
	return r
}

func (f *fsm) end(l dcs.LeaseID, index uint64) {
	f.tree.EndLease(dcs.Revision(index), l)
	delete(f.ttls, l)
}

func (f *fsm) fail(err error) {
	if f.broken.CompareAndSwap(nil, &err) {
		f.onBroken(err)
	}
}

// note keeps why a snapshot could not be read: raft's own error leaves it out.
func (f *fsm) note(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unread = err
}

// unreadable returns why the last snapshot could not be taken over, or nil.
func (f *fsm) unreadable() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.unread
}

// failed returns why nothing is applied any more, or nil.
func (f *fsm) failed() error {
	if err := f.broken.Load(); err != nil {
		return *err
	}
	return nil
}

func (f *fsm) wake() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ready != nil {
		close(f.ready)
		f.ready = nil
	}
}

// next returns a channel that is closed when the state has moved on.
func (f *fsm) next() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ready == nil {
		f.ready = make(chan struct{})
	}
	return f.ready
}
