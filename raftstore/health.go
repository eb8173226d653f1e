package raftstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

const (
	// stalledAfter is the time of a durable write after which the node counts as
	// stalled. slowAfter is the time after which it reports to the others that it is
	// unhealthy, so that they do not rely on it.
	stalledAfter = time.Second
	slowAfter    = 500 * time.Millisecond
	// healthTick is how often a node checks its own health.
	healthTick = 100 * time.Millisecond
	// outFor is the time for which a node that stepped out waits for another leader
	// before it takes part again.
	outFor = 10 * time.Second
)

// errStalled is the reason why a node takes no part while a write hangs.
var errStalled = errors.New("a write to the disk did not return")

// health decides whether this node may take part. It measures every durable write,
// including one in progress. Raft cannot be asked instead, because its main loop
// hangs if the disk does.
type health struct {
	// changed is called for every change of the state, in order, with the lock held.
	changed func(from, to Health)

	mu     sync.Mutex
	begun  map[uint64]dcs.Instant // writes in progress
	disk   DiskStatus
	done   uint64
	faults map[uint64]writeFault // of writes that are being repeated
	// outcome is closed when an attempt of a write ends, and made when a caller
	// waits for that.
	outcome chan struct{}
	lost    error // permanent
	out     error // why this node left the leadership, or nil
	state   HealthState
	since   dcs.Instant
}

// writeFault is the last failure of a write, and how many attempts failed.
type writeFault struct {
	err      error
	attempts int
}

func newHealth(changed func(from, to Health)) *health {
	return &health{changed: changed, begun: map[uint64]dcs.Instant{}, faults: map[uint64]writeFault{}, state: Well, since: dcs.Now()}
}

// begin implements storeHealth. A write with all its repetitions after failures is
// one write.
func (h *health) begin() (id uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.disk.Writes++
	h.begun[h.disk.Writes] = dcs.Now()
	return h.disk.Writes
}

// ended implements storeHealth.
func (h *health) ended(id uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	took := h.begun[id].Elapsed()
	delete(h.begun, id)
	delete(h.faults, id)
	h.attempted()
	h.done++
	h.disk.Last, h.disk.Max = took, max(h.disk.Max, took)
	if h.done == 1 {
		h.disk.Mean = took
	} else {
		h.disk.Mean += (took - h.disk.Mean) / 8
	}
	h.update()
}

// fault implements storeHealth.
func (h *health) fault(id uint64, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.faults[id] = writeFault{err, h.faults[id].attempts + 1}
	h.attempted()
	h.disk.Faults++
	h.update()
}

// attempted wakes the callers of retried. The caller holds the lock.
func (h *health) attempted() {
	if h.outcome != nil {
		close(h.outcome)
		h.outcome = nil
	}
}

// retried calls again, which must make the store repeat failed writes at once. It
// returns when each of them has been attempted once more, or when ctx ends.
func (h *health) retried(ctx context.Context, again func()) {
	h.mu.Lock()
	failing := maps.Clone(h.faults)
	h.mu.Unlock()
	again()
	for {
		h.mu.Lock()
		maps.DeleteFunc(failing, func(id uint64, f writeFault) bool { return h.faults[id].attempts != f.attempts })
		if h.outcome == nil {
			h.outcome = make(chan struct{})
		}
		outcome := h.outcome
		h.mu.Unlock()
		if len(failing) == 0 {
			return
		}
		select {
		case <-outcome:
		case <-ctx.Done():
			return
		}
	}
}

// permanent implements storeHealth.
func (h *health) permanent(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lost == nil {
		h.lost = err
	}
	h.update()
}

// anyFault returns the failure of a write that is being repeated, or nil. The
// caller holds the lock.
func (h *health) anyFault() error {
	for _, f := range h.faults {
		return f.err
	}
	return nil
}

// pending returns the age of the oldest write in progress. The caller holds the lock.
func (h *health) pending() time.Duration {
	var oldest time.Duration
	for _, at := range h.begun {
		oldest = max(oldest, at.Elapsed())
	}
	return oldest
}

// unhealthy returns the reason why this node can acknowledge nothing, or nil. The
// caller holds the lock.
func (h *health) unhealthy() error {
	if h.lost != nil {
		return h.lost
	}
	if h.pending() < stalledAfter {
		return nil
	}
	if err := h.anyFault(); err != nil {
		return fmt.Errorf("%w: %w", errStalled, err)
	}
	return errStalled
}

// update updates the state and reports a change. The caller holds the lock.
func (h *health) update() {
	state, err := Well, h.unhealthy()
	switch {
	case h.lost != nil:
		state = Failed
	case h.out != nil:
		state, err = SteppedOut, h.out
	case err != nil:
		state = Stalled
	}
	if state == h.state {
		return
	}
	from := Health{State: h.state, Since: h.since.Elapsed()}
	h.state, h.since = state, dcs.Now()
	h.changed(from, Health{State: state, Err: err})
}

// check updates the state, because a write that hangs does not. It returns the reason
// why this node is unhealthy, or nil.
func (h *health) check() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.update()
	return h.unhealthy()
}

// stepOut records that this node leaves the leadership to the others.
func (h *health) stepOut(reason error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.out = reason
	h.update()
}

// stepIn records that this node takes part again.
func (h *health) stepIn() { h.stepOut(nil) }

// hasSteppedOut reports whether this node has left the leadership to the others.
func (h *health) hasSteppedOut() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.out != nil
}

// hearsNoLeader reports whether this node hears of no leader although there may be one,
// because it left the leadership or can take no part any more.
func (h *health) hearsNoLeader() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.out != nil || h.lost != nil
}

// isResponsive reports whether the others can rely on this node now.
func (h *health) isResponsive() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lost == nil && len(h.faults) == 0 && h.pending() < slowAfter
}

// status returns the present state. Disk.Pending grows while a write hangs.
func (h *health) status() (Health, DiskStatus) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.update()
	d := h.disk
	d.Pending, d.Fault = h.pending(), h.anyFault()
	err := h.unhealthy()
	if h.out != nil {
		err = h.out
	}
	return Health{State: h.state, Since: h.since.Elapsed(), Err: err}, d
}
