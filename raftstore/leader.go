package raftstore

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
)

// errNotLeader reports that this node does not lead, so that nothing was done.
var errNotLeader = errors.New("this node is not the Raft leader")

// leadership is the work of a node as Raft leader. It proposes commands, keeps the
// time of leases and confirms. All its knowledge belongs to one term and is discarded
// with it (P21).
type leadership struct {
	state *state.FSM
	queue chan *proposal // to the one goroutine that hands proposals to Raft

	// leads reports whether Raft leads in exactly that term. clock is monotonic.
	// gather makes the quorumCheck of a term.
	life   context.Context //nolint:containedctx // the node's: its end is every term's
	leads  func(term uint64) bool
	clock  func() time.Duration
	gather func(life context.Context, term uint64) *quorumCheck
	// serve does the other work of a leader, until the term is over.
	serve func(life context.Context, term uint64)

	// understands is the newest feature level that this node understands. levels
	// returns the newest one that all servers of the configuration understand.
	understands byte
	levels      func(ctx context.Context) (byte, error)

	mu      sync.Mutex
	current *term       // nil while this node does not lead
	leading atomic.Bool // current is not nil: a hint, read without the lock
	waiting map[state.Key][]*proposal
	running sync.WaitGroup
}

// term is one term that this node leads in.
type term struct {
	l      *leadership
	number uint64
	life   context.Context //nolint:containedctx // it is the term's end
	end    context.CancelFunc
	quorum *quorumCheck
	opened chan struct{} // closed once it may confirm (P21)
	wake   chan struct{} // a lease is due earlier than the timer

	// Under the leadership's lock:
	leases map[dcs.LeaseID]*lease // nil until opened
	order  leaseHeap
}

func newLeadership(life context.Context, fsm *state.FSM) *leadership {
	l := &leadership{life: life, state: fsm, understands: state.Level, queue: make(chan *proposal, 4*appendBatch), waiting: map[state.Key][]*proposal{}}
	fsm.OnApply = l.applied
	return l
}

// changed is called for every gain and loss of the leadership, in order, but perhaps
// late. number is the term in which Raft leads at the time of the call, or 0.
func (l *leadership) changed(number uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current != nil && l.current.number == number {
		return
	}
	if l.current != nil {
		l.current.end()
		l.current = nil
		l.leading.Store(false)
		clear(l.waiting) // callers that still wait see the end of the term
	}
	if number == 0 {
		return
	}
	life, end := context.WithCancel(l.life)
	t := &term{
		l: l, number: number, life: life, end: end,
		quorum: l.gather(life, number),
		opened: make(chan struct{}),
		wake:   make(chan struct{}, 1),
	}
	l.current = t
	l.leading.Store(true)
	l.running.Go(t.run)
}

// run opens the term and ends its leases when they are due.
func (t *term) run() {
	defer t.quorum.close()
	defer t.end()
	// P21: an entry of our own term first.
	if !t.propose(&state.Command{Kind: state.KindTerm, Term: t.number}) {
		return
	}
	select {
	case <-t.opened:
		t.l.running.Go(t.raiseLevel)
		if t.l.serve != nil {
			t.l.running.Go(func() { t.l.serve(t.life, t.number) })
		}
		t.expire()
	case <-t.life.Done():
	}
}

// propose passes a command of the leader's own to Raft. It reports false if the term
// is over.
func (t *term) propose(c *state.Command) bool {
	select {
	case t.l.queue <- &proposal{data: c.Encode()}:
		return true
	case <-t.life.Done():
		return false
	}
}

// openTerm returns the present term once it may confirm (P21).
func (l *leadership) openTerm(ctx context.Context) (*term, error) {
	l.mu.Lock()
	t := l.current
	l.mu.Unlock()
	if t == nil {
		return nil, errNotLeader
	}
	select {
	case <-t.opened:
		return t, nil
	default:
	}
	select {
	case <-t.opened:
		return t, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-t.life.Done():
		return nil, errNotLeader
	}
}

// vote returns the voter that answered within the request itself, if its term was
// this one.
func (t *term) vote(voted raft.ServerID, votedIn uint64) raft.ServerID {
	if votedIn != t.number {
		return ""
	}
	return voted
}

// confirmed blocks until it is certain that this node still led after the call was
// made. By then, all writes that were acknowledged before the call are applied here,
// whether this term's leader acknowledged them or, before the term opened, an earlier
// one. Entries that a follower applied and showed before the call are committed, but
// may not be applied here.
func (l *leadership) confirmed(ctx context.Context, voted raft.ServerID, votedIn uint64) error {
	t, err := l.openTerm(ctx)
	if err != nil {
		return err
	}
	if err := t.quorum.confirm(ctx, t.vote(voted, votedIn)); err != nil {
		return err
	}
	if !l.leads(t.number) {
		return errSuperseded
	}
	return nil
}

// applied is called for every command, after its effect is visible, on the FSM's
// goroutine. Raft's futures are not needed. A command that was applied is answered
// here, and the end of the term settles those that were not.
func (l *leadership) applied(c *state.Command, index, term uint64, r state.Result) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.Kind == state.KindOpen || c.Kind.Numbered() {
		l.settle(c.Key(), r)
	}
	t := l.current
	if t == nil {
		return
	}
	switch c.Kind {
	case state.KindTerm:
		if c.Term == t.number && term == t.number {
			t.open(l.state.TTLs())
		}
	case state.KindGrant, state.KindRevoke:
		ttl, live := l.state.TTL(c.Lease)
		t.follow(c.Lease, ttl, live)
	case state.KindExpire:
		for _, id := range c.Leases {
			ttl, live := l.state.TTL(id)
			t.follow(id, ttl, live)
		}
	case state.KindOpen, state.KindTxn, state.KindCancel, state.KindLevel:
	}
}

// close ends the term and waits for its goroutines.
func (l *leadership) close() {
	l.changed(0)
	l.running.Wait()
}
