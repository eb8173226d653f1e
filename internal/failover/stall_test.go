//go:build linux

package failover

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// stall measures, as a control of the machine, by how much timers were late.
type stall struct {
	mu   sync.Mutex
	late []time.Duration // the longest delays, in order
}

const (
	stallTick = 5 * time.Millisecond
	// steps is the number of steps of a takeover, each in another process than the one
	// before: the end of the lease, its commit (to a follower and back), the watch, the
	// commit that takes the lock (to the server, to a follower, and both ways back), the
	// renewal that confirms it (the same), and the promotion.
	steps = 1 + 2 + 1 + 4 + 4 + 1
)

// measureStall measures until the end of the test.
func measureStall(t *testing.T) *stall {
	t.Helper()
	s := &stall{}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		timer := time.NewTimer(0)
		defer timer.Stop()
		for {
			began := dcs.Now()
			timer.Reset(stallTick)
			select {
			case <-timer.C:
			case <-ctx.Done():
				return
			}
			s.mu.Lock()
			s.late = append(s.late, began.Elapsed()-stallTick)
			slices.Sort(s.late)
			s.late = s.late[max(0, len(s.late)-steps):]
			s.mu.Unlock()
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return s
}

// reset begins a new measurement.
func (s *stall) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.late = nil
}

// sum returns the time that the machine may have added to a takeover since reset: the
// longest delays, one for each step.
func (s *stall) sum() (d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, late := range s.late {
		d += late
	}
	return d
}
