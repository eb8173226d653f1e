package raftstore

import (
	"context"
	"crypto/rand"
	"sync"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
)

// clientHolder holds the client under which this backend numbers its commands (P15).
type clientHolder struct {
	mu      sync.Mutex
	present *sequence
	opening chan struct{} // closed when the opening in progress ends; nil if there is none
}

// sequence numbers the commands of one client.
type sequence struct {
	id uint64

	mu    sync.Mutex
	next  uint64
	low   uint64 // every number below is settled
	open  map[uint64]struct{}
	freed chan struct{} // closed when low rises; nil while no caller waits
}

func newSequence(id uint64) *sequence {
	return &sequence{id: id, next: 1, low: 1, open: map[uint64]struct{}{}}
}

// begin takes the next number. It waits while too many are unsettled.
func (s *sequence) begin(ctx context.Context, closed <-chan struct{}) (seq, low uint64, err error) {
	for {
		s.mu.Lock()
		if s.next-s.low < state.ClientWindow/2 {
			seq = s.next
			s.next++
			s.open[seq] = struct{}{}
			low = s.low
			s.mu.Unlock()
			return seq, low, nil
		}
		if s.freed == nil {
			s.freed = make(chan struct{})
		}
		freed := s.freed
		s.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return 0, 0, ctx.Err()
		case <-closed:
			return 0, 0, dcs.ErrClosed
		}
	}
}

// end marks a number as settled. No answer to it is needed any more.
func (s *sequence) end(seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, seq)
	for s.low < s.next {
		if _, open := s.open[s.low]; open {
			break
		}
		s.low++
	}
	if s.freed != nil {
		close(s.freed)
		s.freed = nil
	}
}

// lowest returns the number below which everything is settled.
func (s *sequence) lowest() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.low
}

// client returns the client of this backend, and makes one if there is none. If it
// cannot, the outcome has the error.
func (b *frontend) client(ctx context.Context) (*sequence, outcome) {
	h := &b.clients
	for {
		h.mu.Lock()
		if s := h.present; s != nil {
			h.mu.Unlock()
			return s, outcome{}
		}
		opening := h.opening
		if opening == nil {
			opening = make(chan struct{})
			h.opening = opening
			h.mu.Unlock()
			return b.openClient(ctx)
		}
		h.mu.Unlock()
		select {
		case <-opening:
		case <-ctx.Done():
			return nil, outcome{err: context.Cause(ctx)}
		}
	}
}

// openClient makes the client that all callers wait for.
func (b *frontend) openClient(ctx context.Context) (*sequence, outcome) {
	s, o := b.newClient(ctx)
	h := &b.clients
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.opening)
	h.opening, h.present = nil, s
	return s, o
}

// newClient makes a client. Copies of the entry make further clients, which are
// never used and are discarded in time. No client is made twice.
func (b *frontend) newClient(ctx context.Context) (*sequence, outcome) {
	c := &state.Command{Kind: state.KindOpen}
	rand.Read(c.Nonce[:])
	o := b.nodes.ask(ctx, &request{op: opPropose, key: c.Key(), data: c.Encode()})
	if o.err != nil {
		return nil, o
	}
	return newSequence(uint64(o.reply.result.Revision)), outcome{}
}

// dropClient discards a client that the cluster does not know any more.
func (b *frontend) dropClient(s *sequence) {
	h := &b.clients
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.present == s {
		h.present = nil
	}
}
