package raftstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// mostProbe bounds the time between two probes.
const mostProbe = 2500 * time.Millisecond

// leastProbeTime is the least timeout of a probe, however often there is one.
const leastProbeTime = time.Second

// errSilent reports that no leader has confirmed the position of the store for too long.
var errSilent = errors.New("the store was silent")

// waits is shared by all Waits of a backend, or by all streams of clients. It makes one
// probe at a time, of constant size, which shows that the store answers and that this
// node keeps up with it.
type waits struct {
	b *Backend

	mu      sync.Mutex
	every   time.Duration // between two probes
	count   int           // Waits in progress
	probing bool          // the prober runs
	alive   dcs.Instant   // the start of the last probe that succeeded
	changed chan struct{} // closed when a probe ends
	behind  dcs.Revision  // the position that this node did not reach in time; 0 if it is up to date
	last    error         // the error of the last probe, or nil
	caught  *member       // the member that has caught up since it was started
	sooner  chan struct{} // the next probe is due earlier
}

func (w *waits) init(b *Backend) {
	w.b = b
	w.every = min(mostProbe, b.config.Timing.RetryTimeout/4)
	w.changed = make(chan struct{})
	w.sooner = make(chan struct{}, 1)
}

// Wait blocks until the tree under prefix has moved past since. It is served from this
// node's own state, once that has caught up after the start. If the node falls behind,
// Wait also asks the leader.
func (b *Backend) Wait(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, error) {
	if b.life.Err() != nil {
		return dcs.Snapshot{}, b.fail("Wait", prefix, dcs.ErrClosed, "", nil)
	}
	floor := b.minRevision.Load()
	begun := dcs.Now()
	w := &b.waits
	w.enter()
	defer w.leave()
	tree := b.node.state.Tree()
	watch := tree.Watch(prefix)
	defer watch.Stop()
	var asked <-chan struct{} // the probe after which the leader was asked
	for {
		moved, applied := watch.Moved(), b.node.state.Next()
		v := w.view()
		if v.caught != nil && v.caught == b.node.member() && tree.Revision() >= floor {
			applied = nil
			if tree.MovedSince(prefix, since) {
				s := tree.Snapshot(prefix)
				b.minRevision.Raise(s.Revision)
				return s, nil
			}
		}
		if v.behind > 0 && asked != v.changed {
			asked = v.changed
			if s, ok := b.askLeader(ctx, prefix, since); ok && s.Revision >= floor {
				return s, nil
			}
		}
		silence := b.config.Timing.RetryTimeout - min(begun.Elapsed(), v.alive.Elapsed())
		if silence <= 0 {
			return dcs.Snapshot{}, b.fail("Wait", prefix, dcs.ErrUnavailable, "", silent(v.last))
		}
		timer := time.NewTimer(silence)
		select {
		case <-moved:
		case <-applied:
		case <-v.changed:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return dcs.Snapshot{}, ctx.Err()
		case <-b.life.Done():
			timer.Stop()
			return dcs.Snapshot{}, b.fail("Wait", prefix, dcs.ErrClosed, "", nil)
		}
		timer.Stop()
	}
}

func silent(last error) error {
	if last == nil {
		return errSilent
	}
	return fmt.Errorf("%w; last: %w", errSilent, last)
}

// askLeader asks the leader whether the tree has moved, because this node's own copy is
// behind. It returns the tree if it has.
func (b *Backend) askLeader(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, bool) {
	ctx, cancel := context.WithTimeout(ctx, b.waits.period())
	defer cancel()
	s, moved, o := b.fetch(ctx, prefix, since)
	if o.err != nil || !moved {
		return s, false
	}
	b.minRevision.Raise(s.Revision)
	return s, true
}

// view is the result of the probes for a Wait.
type view struct {
	alive   dcs.Instant
	changed <-chan struct{}
	behind  dcs.Revision
	last    error
	caught  *member
}

func (w *waits) view() view {
	w.mu.Lock()
	defer w.mu.Unlock()
	return view{alive: w.alive, changed: w.changed, behind: w.behind, last: w.last, caught: w.caught}
}

func (w *waits) enter() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count++
	if !w.probing && w.b.life.Err() == nil {
		w.probing = true
		w.b.running.Go(w.probe)
	}
}

// close returns when no enter starts the prober any more. The backend's life must have
// ended.
func (w *waits) close() {
	w.mu.Lock()
	defer w.mu.Unlock() // an enter that began before has started the prober
}

// enterEvery is enter for a stream that needs a probe that often.
func (w *waits) enterEvery(every time.Duration) {
	w.mu.Lock()
	if w.count == 0 || every < w.every {
		w.every = every
		select {
		case w.sooner <- struct{}{}:
		default:
		}
	}
	w.mu.Unlock()
	w.enter()
}

// period returns the time between two probes.
func (w *waits) period() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.every
}

// waiting returns the number of Waits or streams.
func (w *waits) waiting() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count
}

func (w *waits) leave() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count--
}

// probe asks for the leader's position while a Wait is in progress, and a little longer,
// so that the next Wait starts no probe of its own.
func (w *waits) probe() {
	for {
		begun, member := dcs.Now(), w.b.node.member()
		behind, err := w.once()
		w.mu.Lock()
		close(w.changed)
		w.changed = make(chan struct{})
		w.behind, w.last = behind, err
		if err == nil {
			w.alive = begun
			if behind == 0 {
				w.caught = member
			}
		}
		w.mu.Unlock()
		w.waitDue(begun)
		w.mu.Lock()
		if w.count == 0 || w.b.life.Err() != nil {
			w.probing = false
			w.mu.Unlock()
			return
		}
		w.mu.Unlock()
	}
}

// waitDue waits until the probe after the one that began at begun is due.
func (w *waits) waitDue(begun dcs.Instant) {
	for {
		t := time.NewTimer(w.period() - begun.Elapsed())
		select {
		case <-t.C:
		case <-w.b.life.Done():
		case <-w.sooner:
			t.Stop()
			continue
		}
		t.Stop()
		return
	}
}

// once makes one probe. It returns the leader's position if this node did not reach it
// in time, else 0.
func (w *waits) once() (behind dcs.Revision, err error) {
	every := w.period()
	ctx, cancel := context.WithTimeout(w.b.life, max(every, min(leastProbeTime, w.b.retryTimeout/4)))
	defer cancel()
	o := w.b.node.ask(ctx, &request{op: opPosition}, nothing)
	if o.err != nil {
		// The error must not match the context error of the probe, which is not that of
		// the Wait.
		return 0, errors.New(o.err.Error())
	}
	// The other nodes learn of a commit within two commitTimeouts at most.
	grace, stop := context.WithTimeout(ctx, max(4*commitTimeout, every/4))
	defer stop()
	if w.b.node.await(grace, o.reply.revision) != nil {
		return o.reply.revision, nil
	}
	return 0, nil
}
