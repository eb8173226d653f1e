package raftstore

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// P2: evidence that a leader is still the leader of a quorum.
//
// A leader of term T that received a request at moment a proves that no newer leader
// had been elected by then. For that, voters that are a majority, itself among them if
// it votes, must each read their own current term after a and find T. A newer leader
// needs the votes of a majority, and a voter raises its term before it votes, for
// itself too. The two majorities share a voter.
//
// Neither Raft's main loop nor a disk is in the path of a question. Each question
// bears a stamp, so that a reply to an older question counts for nothing. See
// docs/decisions/0004-raft-evidence.md.

// errSuperseded reports that the leader's term is over, or may be.
var errSuperseded = errors.New("the Raft leadership changed")

// voter is one server whose answer counts.
type voter struct {
	id   raft.ServerID
	addr string
}

// A quorumCheck gathers the answers in one term of one leader.
type quorumCheck struct {
	term  uint64
	self  raft.ServerID
	pause time.Duration // between two questions to a voter that does not answer

	// voters returns the voters of the latest configuration. own returns this node's
	// current term. ask puts the question to another voter.
	voters func() []voter
	own    func() uint64
	ask    func(ctx context.Context, addr string) (uint64, error)

	life context.Context //nolint:containedctx // the term itself: it ends every question

	mu           sync.Mutex
	stamp        uint64 // rises with every arrival; a question takes the newest
	waiting      []*waiter
	voterPollers map[raft.ServerID]*voterPoller
	running      sync.WaitGroup
}

// waiter is one renewal or read that needs evidence from after its arrival.
type waiter struct {
	stamp uint64
	voted raft.ServerID // a voter that answered in the request itself, or ""
	done  chan struct{}
}

// voterPoller asks one voter, one question at a time, while a call waits.
type voterPoller struct {
	voter
	answered uint64 // stamp of the newest question that was answered with our term
	asked    uint64 // stamp of the newest question
	wake     chan struct{}
}

// confirm blocks until voters that are a majority have shown that they knew no newer
// term than e.term after confirm was called. voted is a voter that read exactly that
// term after the request was made and reported it in the request, or empty.
func (e *quorumCheck) confirm(ctx context.Context, voted raft.ServerID) error {
	voters := e.voters()
	e.mu.Lock()
	if e.life.Err() != nil {
		e.mu.Unlock()
		return errSuperseded
	}
	e.stamp++
	w := &waiter{stamp: e.stamp, voted: voted, done: make(chan struct{})}
	if e.hasMajority(w, voters) {
		e.mu.Unlock()
		return e.checkOwnTerm()
	}
	e.waiting = append(e.waiting, w)
	e.wakePollers(voters)
	e.mu.Unlock()
	select {
	case <-w.done:
		return e.checkOwnTerm()
	case <-ctx.Done():
		e.forget(w)
		return context.Cause(ctx)
	case <-e.life.Done():
		return errSuperseded
	}
}

// checkOwnTerm checks this node's own term, which like those of the others must be read after
// the request has arrived.
func (e *quorumCheck) checkOwnTerm() error {
	if e.own() != e.term || e.life.Err() != nil {
		return errSuperseded
	}
	return nil
}

// hasMajority reports whether w has its majority. Non-voters never count.
func (e *quorumCheck) hasMajority(w *waiter, voters []voter) bool {
	votes := 0
	for _, v := range voters {
		switch a := e.voterPollers[v.id]; {
		case v.id == e.self, v.id == w.voted:
			votes++
		case a != nil && a.answered >= w.stamp:
			votes++
		}
	}
	return votes > len(voters)/2
}

// wakePollers starts a voterPoller for every other voter without one, and wakes all.
func (e *quorumCheck) wakePollers(voters []voter) {
	for _, v := range voters {
		if v.id == e.self {
			continue
		}
		a := e.voterPollers[v.id]
		if a == nil || a.addr != v.addr {
			a = &voterPoller{voter: v, wake: make(chan struct{}, 1)}
			e.voterPollers[v.id] = a
			e.running.Go(func() { e.run(a) })
		}
		select {
		case a.wake <- struct{}{}:
		default:
		}
	}
}

func (e *quorumCheck) run(a *voterPoller) {
	for {
		select {
		case <-a.wake:
		case <-e.life.Done():
			return
		}
		for e.nextQuestion(a) {
			stamp := a.asked
			term, err := e.ask(e.life, a.addr)
			if err == nil && term == e.term {
				e.answer(a, stamp)
			} else if !e.waitRetry() {
				return
			}
		}
	}
}

// nextQuestion stamps the next question to a and reports whether one is needed, because a
// call waits that arrived after the last question that a answered.
func (e *quorumCheck) nextQuestion(a *voterPoller) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.voterPollers[a.id] != a || len(e.waiting) == 0 || e.waiting[len(e.waiting)-1].stamp <= a.answered {
		return false
	}
	a.asked = e.stamp
	return true
}

// answer records that a knew no newer term after the question with that stamp was
// sent, and releases the waiters that have a majority now.
func (e *quorumCheck) answer(a *voterPoller, stamp uint64) {
	voters := e.voters()
	e.mu.Lock()
	defer e.mu.Unlock()
	a.answered = max(a.answered, stamp)
	left := e.waiting[:0]
	for _, w := range e.waiting {
		if w.stamp <= a.answered && e.hasMajority(w, voters) {
			close(w.done)
		} else {
			left = append(left, w)
		}
	}
	clear(e.waiting[len(left):])
	e.waiting = left
}

// waitRetry waits before a voter that cannot be reached is asked again. It reports false
// if the term has ended.
func (e *quorumCheck) waitRetry() bool {
	t := time.NewTimer(e.pause)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-e.life.Done():
		return false
	}
}

// close waits for the voterPollers, after the term's life has ended.
func (e *quorumCheck) close() {
	// A call that held the lock may just have started one. None does from now on.
	e.mu.Lock()
	e.mu.Unlock() //nolint:staticcheck // passing through is the point
	e.running.Wait()
}

func (e *quorumCheck) forget(w *waiter) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, other := range e.waiting {
		if other == w {
			e.waiting = append(e.waiting[:i], e.waiting[i+1:]...)
			return
		}
	}
}
