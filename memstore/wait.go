package memstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/attempt"
	"github.com/holdfast-dcs/holdfast/internal/kvtree"
)

// watch is the state of one Wait at the server.
type watch struct {
	moved bool
	snap  dcs.Snapshot    // if moved
	next  <-chan struct{} // closed at the next change, if not moved
	on    *kvtree.Watch   // of the tree, until the Wait ends
}

// watch starts a watch. The request may arrive after the Wait has ended and stopped on. It
// then watches nothing.
func (r *root) watch(on *kvtree.Watch, prefix string, since dcs.Revision) watch {
	w := watch{next: on.Moved(), on: on}
	if r.moved(prefix, since) {
		w.moved, w.snap = true, r.snapshot(prefix)
	}
	return w
}

// watchTree returns a Watch of prefix, which the caller must stop.
func (b *Backend) watchTree(prefix string) *kvtree.Watch {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	return b.s.root(b.o.Root).tree.Watch(inside(prefix))
}

func (r *root) moved(prefix string, since dcs.Revision) bool {
	return r.tree.MovedSince(inside(prefix), since) && r.tree.Revision() > since
}

// Wait implements [dcs.Backend]. The server pushes changes. While nothing changes, the
// client sends one probe of constant size every min(2.5 s, RetryTimeout/4), which
// distinguishes a silent store from one without changes.
func (b *Backend) Wait(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, error) {
	var (
		timing  = b.o.Timing.RetryTimeout
		every   = min(2500*time.Millisecond, timing/4)
		heard   = dcs.Now() // when the store last answered this Wait
		failure error
		on      = b.watchTree(prefix)
	)
	defer on.Stop()
	for n, from := 0, b.current.Load(); ; n++ {
		c := b.address(Call{Op: OpWait, Keys: []string{prefix}}, from, n)
		one, cancel := context.WithTimeout(ctx, min(every, max(timing-heard.Elapsed(), time.Millisecond)))
		w, err := send(one, b, c, func(r *root) watch { return r.watch(on, prefix, since) })
		cancel()
		if err == nil {
			heard = dcs.Now()
			b.noteEndpoint(from, c)
			from, n = b.current.Load(), 0
			w, err = b.follow(ctx, c, w, prefix, since, every, &heard)
		}
		if err == nil && b.raiseMinRevision(w.snap.Revision) {
			return w.snap, nil
		}
		if err != nil {
			failure = err
		}
		if over := b.waitOver(ctx, prefix, heard, failure); over != nil {
			return dcs.Snapshot{}, over
		}
		if err != nil && !b.pause(ctx, n) {
			return dcs.Snapshot{}, b.waitOver(ctx, prefix, heard, failure)
		}
	}
}

// waitOver returns the error that ends a Wait, or nil.
func (b *Backend) waitOver(ctx context.Context, prefix string, heard dcs.Instant, failure error) error {
	select {
	case <-b.done:
		return b.fail("Wait", prefix, dcs.ErrClosed)
	default:
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if errors.Is(failure, attempt.ErrNotSent) && dcs.KindOf(failure) != nil {
		return b.fail("Wait", prefix, failure)
	}
	if heard.Elapsed() >= b.o.Timing.RetryTimeout {
		return b.fail("Wait", prefix, failure)
	}
	return nil
}

var errSilent = errors.New("the server stopped sending changes to the watch")

// follow waits for the change that ends w, and sends probes until then. An error reports
// that the watch must be started again.
func (b *Backend) follow(ctx context.Context, c Call, w watch, prefix string, since dcs.Revision, every time.Duration, heard *dcs.Instant) (watch, error) {
	for !w.moved {
		b.s.mu.Lock()
		muted, changed, down := b.s.muted(c), b.s.faults.changed, b.s.faults.down
		b.s.mu.Unlock()
		if down {
			return w, errBroken
		}
		next := w.next
		if muted {
			next = nil
		}
		probe := time.NewTimer(every)
		select {
		case <-next:
			b.delayPush(ctx)
			w = b.push(c, w.on, prefix, since)
			*heard = dcs.Now()
		case <-changed:
		case <-probe.C:
			p := c
			p.Op = OpProbe
			one, cancel := context.WithTimeout(ctx, every)
			missed, err := send(one, b, p, func(r *root) bool { return r.moved(prefix, since) })
			cancel()
			if err != nil {
				return w, fmt.Errorf("%w: %w", errSilent, err)
			}
			*heard = dcs.Now()
			if missed && muted {
				return w, errSilent
			}
		case <-ctx.Done():
		case <-b.done:
		}
		probe.Stop()
		if ctx.Err() != nil {
			return w, ctx.Err()
		}
		select {
		case <-b.done:
			return w, dcs.ErrClosed
		default:
		}
	}
	return w, nil
}

// delayPush waits for the time that a pushed change takes to reach the client.
func (b *Backend) delayPush(ctx context.Context) {
	if b.s.o.Latency <= 0 {
		return
	}
	t := time.NewTimer(b.s.o.Latency)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	case <-b.done:
	}
}

// push returns the state of the tree that the server pushes after a change.
func (b *Backend) push(c Call, on *kvtree.Watch, prefix string, since dcs.Revision) watch {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	return b.s.root(c.Root).watch(on, prefix, since)
}
