package attempt

import (
	"context"
	"sync"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// slot is one marker. Whoever took it from the pool owns it alone.
type slot struct {
	key      string // chosen at random, dropped when the marker was lost
	made     bool   // modified was read from the store
	modified dcs.Revision
}

// forget gives the marker up: its name is never used again.
func (s *slot) forget() { *s = slot{} }

// pool hands out slots: one Commit in flight on each (P7), and one whose
// attempt is unclear only for its settling (P12).
type pool struct {
	mu      sync.Mutex
	size    int
	made    int
	free    []*slot   // the last one given back is taken first: few are used
	unclear []*handle // oldest first
	waiting []chan *slot
}

// take returns a free slot; or an unclear attempt that has to be settled first
// (P12), if there is no free slot; or waits until there is one of both. It
// returns neither when ctx ends.
func (p *pool) take(ctx context.Context) (*slot, *handle) {
	p.mu.Lock()
	if n := len(p.free); n > 0 {
		s := p.free[n-1]
		p.free = p.free[:n-1]
		p.mu.Unlock()
		return s, nil
	}
	if p.made < p.size {
		p.made++
		p.mu.Unlock()
		return &slot{}, nil
	}
	if len(p.unclear) > 0 {
		h := p.unclear[0]
		p.unclear = append(p.unclear[1:], h) // the next one settles another
		p.mu.Unlock()
		return nil, h
	}
	turn := make(chan *slot, 1)
	p.waiting = append(p.waiting, turn)
	p.mu.Unlock()
	select {
	case s := <-turn:
		if s == nil { // an attempt became unclear: look again
			return p.take(ctx)
		}
		return s, nil
	case <-ctx.Done():
		p.leave(turn)
		return nil, nil
	}
}

// leave withdraws a waiter, and passes on what it was given meanwhile.
func (p *pool) leave(turn chan *slot) {
	p.mu.Lock()
	for i, w := range p.waiting {
		if w == turn {
			p.waiting = append(p.waiting[:i], p.waiting[i+1:]...)
			p.mu.Unlock()
			return
		}
	}
	p.mu.Unlock()
	if s := <-turn; s != nil {
		p.give(s)
	} else {
		p.wake()
	}
}

// give returns a slot that nothing unclear is about any more.
func (p *pool) give(s *slot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) > 0 {
		p.waiting[0] <- s
		p.waiting = p.waiting[1:]
		return
	}
	p.free = append(p.free, s)
}

// wake lets one waiter look for something to settle.
func (p *pool) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) > 0 {
		p.waiting[0] <- nil
		p.waiting = p.waiting[1:]
	}
}

// keep sets h's slot aside until h is settled.
func (p *pool) keep(h *handle) {
	p.mu.Lock()
	p.unclear = append(p.unclear, h)
	p.mu.Unlock()
	p.wake()
}

// settled takes h off the unclear ones and gives its slot back.
func (p *pool) settled(h *handle) {
	p.mu.Lock()
	for i, u := range p.unclear {
		if u == h {
			p.unclear = append(p.unclear[:i], p.unclear[i+1:]...)
			break
		}
	}
	p.mu.Unlock()
	p.give(h.slot)
}
