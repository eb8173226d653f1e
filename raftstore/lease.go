package raftstore

import (
	"container/heap"
	"context"
	"errors"
	"time"

	"github.com/hashicorp/raft"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
)

// errGone reports that the quorum has confirmed that a lease is not live.
var errGone = errors.New("the lease is not live")

// expireBatch bounds the leases that one log entry ends.
const expireBatch = 512

// expiry returns the time on the leader's clock from the last renewal of a lease to
// its end. The surplus keeps the end from being early if the rates of two clocks
// differ (P22).
func expiry(ttl time.Duration) time.Duration { return ttl + ttl/100 + 50*time.Millisecond }

// lease is one live lease on the clock of a leader, for one term.
type lease struct {
	id       dcs.LeaseID
	ttl      time.Duration
	deadline time.Duration // on the leadership's clock
	due      time.Duration // when the heap examines it; never after deadline
	gone     chan struct{} // P22: not nil = marked expiring; closed when ended
	removed  bool
}

// leaseHeap orders leases by due. A renewal does not change due. The lease is put back
// when the old due has come, so that renewals cost no sorting.
type leaseHeap []*lease

func (h leaseHeap) Len() int           { return len(h) }
func (h leaseHeap) Less(i, j int) bool { return h[i].due < h[j].due }
func (h leaseHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push is part of heap.Interface.
func (h *leaseHeap) Push(x any) { *h = append(*h, x.(*lease)) }

// Pop is part of heap.Interface.
func (h *leaseHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return x
}

// open allows the term to confirm. Its own first entry is applied here, and with it
// all entries of earlier terms. The time of all leases starts again at this moment
// (P21). The caller holds the lock.
func (t *term) open(ttls map[dcs.LeaseID]time.Duration) {
	if t.leases != nil {
		return
	}
	t.leases = make(map[dcs.LeaseID]*lease, len(ttls))
	for id, ttl := range ttls {
		t.add(id, ttl)
	}
	close(t.opened)
}

// add starts the clock of a lease. The caller holds the lock.
func (t *term) add(id dcs.LeaseID, ttl time.Duration) {
	deadline := t.l.clock() + expiry(ttl)
	h := &lease{id: id, ttl: ttl, deadline: deadline, due: deadline}
	t.leases[id] = h
	heap.Push(&t.order, h)
	if t.order[0] == h {
		select {
		case t.wake <- struct{}{}:
		default:
		}
	}
}

// follow makes the clock of a lease agree with the replicated state. The caller holds
// the lock.
func (t *term) follow(id dcs.LeaseID, ttl time.Duration, live bool) {
	h, known := t.leases[id]
	switch {
	case t.leases == nil: // open takes them all
	case live && !known:
		t.add(id, ttl)
	case !live && known:
		h.removed = true
		if h.gone != nil {
			close(h.gone)
		}
		delete(t.leases, id)
	}
}

// renew confirms a lease for another TTL and returns the TTL. errGone means that the
// lease has definitely ended. After any other error nothing is known.
func (l *leadership) renew(ctx context.Context, id dcs.LeaseID, voted raft.ServerID, votedIn uint64) (time.Duration, error) {
	t, err := l.openTerm(ctx)
	if err != nil {
		return 0, err
	}
	l.mu.Lock()
	h := t.leases[id]
	if h != nil && h.gone == nil {
		h.deadline = l.clock() + expiry(h.ttl) // P22: at receipt
	}
	l.mu.Unlock()
	if err := t.quorum.confirm(ctx, t.vote(voted, votedIn)); err != nil {
		return 0, err
	}
	return t.judge(ctx, id, h)
}

// judge is the second half of a renewal. After the evidence it examines the lease and
// the term under one lock (P22).
func (t *term) judge(ctx context.Context, id dcs.LeaseID, h *lease) (time.Duration, error) {
	l := t.l
	l.mu.Lock()
	now, marked := t.leases[id], h != nil && h.gone != nil
	leads := l.current == t && l.leads(t.number)
	l.mu.Unlock()
	switch {
	case !leads:
		return 0, errSuperseded
	case now != h && now != nil:
		return 0, errors.New("the lease was granted while it was renewed")
	case now == nil:
		return 0, errGone
	case marked:
		return 0, t.outcome(ctx, h)
	}
	return h.ttl, nil
}

// outcome waits for the outcome of a lease that is marked expiring. It is gone, or
// unknown because the term ended first (P22).
func (t *term) outcome(ctx context.Context, h *lease) error {
	select {
	case <-h.gone:
		return errGone
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.life.Done():
		return errSuperseded
	}
}

// expire ends leases whose deadline has passed, until the term ends. One timer serves
// them all.
func (t *term) expire() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		due, next := t.mark()
		for len(due) > 0 {
			n := min(len(due), expireBatch)
			c := &state.Command{Kind: state.KindExpire, Term: t.number, Leases: due[:n]}
			if !t.propose(c) {
				return
			}
			due = due[n:]
		}
		timer.Reset(next)
		select {
		case <-timer.C:
		case <-t.wake:
		case <-t.life.Done():
			return
		}
	}
}

// mark marks the overdue leases, before their expiry is proposed (P22). It returns
// them and the time until the next lease can be overdue.
func (t *term) mark() (due []dcs.LeaseID, next time.Duration) {
	t.l.mu.Lock()
	defer t.l.mu.Unlock()
	now := t.l.clock()
	for len(t.order) > 0 && t.order[0].due <= now {
		h := t.order[0]
		switch {
		case h.removed:
			heap.Pop(&t.order)
		case h.deadline > now:
			h.due = h.deadline
			heap.Fix(&t.order, 0)
		default:
			heap.Pop(&t.order)
			h.gone = make(chan struct{})
			due = append(due, h.id)
		}
	}
	if len(t.order) == 0 {
		return due, time.Hour
	}
	return due, t.order[0].due - now
}
