package attempt

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// markerSlot is one marker. Only the goroutine that took it from the pool may use it.
type markerSlot struct {
	key      string // chosen at random, and dropped when the marker was lost
	made     bool   // modified was read from the store
	modified dcs.Revision
}

// forget gives the marker up. Its name is never used again.
func (s *markerSlot) forget() { *s = markerSlot{} }

// pool distributes slots. Each has one Commit in flight (P7). A slot whose attempt has
// an unknown outcome is used only to settle it (P12).
type pool struct {
	mu        sync.Mutex
	initial   int // slots that are created without a wait
	limit     int
	made      int
	free      []*markerSlot     // a stack, so that few slots are used
	ambiguous []*pendingAttempt // oldest first
	waiting   []*waiter         // in the order in which they get slots; none while one is free
}

// waiter is a Commit that waits for a slot. It settles attempts with an unknown outcome
// while there are any.
type waiter struct {
	slot *markerSlot        // set once, under the pool's mu
	stop context.CancelFunc // ends its settling when slot is set
	wake chan struct{}      // buffers one; sent when an attempt was set aside
}

// take returns a slot that is free or becomes free until ctx ends, or else nil.
// Meanwhile it calls settle with attempts whose outcome is unknown (P12). An attempt
// that cannot be settled must not keep the Commit from its slot, so the context of
// settle ends when there is a slot.
func (p *pool) take(ctx context.Context, settle func(context.Context, *pendingAttempt)) *markerSlot {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	w := &waiter{stop: stop, wake: make(chan struct{}, 1)}
	if s := p.enter(w); s != nil {
		return s
	}
	for ctx.Err() == nil {
		if h := p.next(); h != nil {
			settle(ctx, h)
			continue
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
		}
	}
	return p.leave(w)
}

// enter returns a free slot, or queues w.
func (p *pool) enter(w *waiter) *markerSlot {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.free); n > 0 {
		s := p.free[n-1]
		p.free = p.free[:n-1]
		return s
	}
	if p.made < p.initial || p.made < p.limit && len(p.waiting) >= p.made {
		p.made++
		return &markerSlot{}
	}
	p.waiting = append(p.waiting, w)
	return nil
}

// size returns the number of slots.
func (p *pool) size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.made
}

// leave ends the waiting of w and returns the slot that it was given, or nil.
func (p *pool) leave(w *waiter) *markerSlot {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.waiting, w); i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
	}
	return w.slot
}

// next returns an attempt with an unknown outcome, or nil. The next call returns
// another one, if there are several.
func (p *pool) next() *pendingAttempt {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.ambiguous) == 0 {
		return nil
	}
	h := p.ambiguous[0]
	p.ambiguous = append(p.ambiguous[1:], h)
	return h
}

// release gives a slot with no unresolved attempt to the first Commit that waits, or
// makes it free.
func (p *pool) release(s *markerSlot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) == 0 {
		p.free = append(p.free, s)
		return
	}
	w := p.waiting[0]
	p.waiting = slices.Delete(p.waiting, 0, 1)
	w.slot = s
	w.stop()
}

// setAside keeps the slot of h from use until h is settled. It wakes every waiter,
// because one that settles h may be given another slot before h is settled.
func (p *pool) setAside(h *pendingAttempt) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ambiguous = append(p.ambiguous, h)
	for _, w := range p.waiting {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// settled removes h from the unsettled attempts and releases its slot.
func (p *pool) settled(h *pendingAttempt) {
	p.mu.Lock()
	if i := slices.Index(p.ambiguous, h); i >= 0 {
		p.ambiguous = slices.Delete(p.ambiguous, i, i+1)
	}
	p.mu.Unlock()
	p.release(h.slot)
}

// noSlotError is the error of a Commit that got no slot in its time.
type noSlotError struct{ slots int }

func (e *noSlotError) Error() string {
	return fmt.Sprintf("each of the %d slots is busy or waits for its attempt to be settled: send fewer Commits at once, or set Slots", e.slots)
}

// Local reports that the error is no sign of an outage, because the Commit waited for
// others of the same Store.
func (e *noSlotError) Local() bool { return true }
