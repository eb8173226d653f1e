package raftstore

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dcs/holdfast/internal/bubble"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// ward is a node for its leadWatch.
type ward struct {
	health   *health
	term     atomic.Uint64 // the term that Raft leads in here
	healthy  atomic.Bool   // a majority of the others is well
	newer    atomic.Bool   // another voter is in a newer term
	asked    atomic.Int64
	barred   atomic.Bool
	retry    atomic.Pointer[func()]
	turns    atomic.Int64
	changes  []string // written under the health's lock
	watching context.CancelFunc
}

func newWard(t *testing.T) *ward {
	w := &ward{}
	w.health = newHealth(func(from, to Health) {
		w.changes = append(w.changes, fmt.Sprintf("%s to %s", from.State, to.State))
	})
	life, end := context.WithCancel(t.Context())
	w.watching = end
	s := &leadWatch{
		health:     w.health,
		leading:    w.term.Load,
		othersWell: func(context.Context) bool { w.asked.Add(1); return w.healthy.Load() },
		superseded: func(context.Context) bool { return w.newer.Load() },
		retry: func() {
			if f := w.retry.Load(); f != nil {
				(*f)()
			}
		},
		bar:  func(reason error) { w.barred.Store(reason != nil) },
		turn: func() { w.turns.Add(1) },
	}
	go s.watch(life)
	t.Cleanup(end)
	return w
}

// TestStalledLeaderStepsOut checks that a leader whose write hangs for a second steps
// out if the others are well, and takes part again when the write has returned.
func TestStalledLeaderStepsOut(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWard(t)
		w.term.Store(3)
		w.healthy.Store(true)
		id := w.health.begin()
		time.Sleep(900 * time.Millisecond)
		synctest.Wait()
		assert.False(t, w.health.hasSteppedOut(), "a write may be slow")
		time.Sleep(300 * time.Millisecond)
		synctest.Wait()
		assert.True(t, w.health.hasSteppedOut())
		assert.True(t, w.barred.Load())
		assert.EqualValues(t, 1, w.turns.Load())
		got, disk := w.health.status()
		assert.Equal(t, SteppedOut, got.State)
		require.ErrorIs(t, got.Err, errStalled)
		assert.Equal(t, 1200*time.Millisecond, disk.Pending)

		w.health.ended(id)
		time.Sleep(healthTick)
		synctest.Wait()
		assert.False(t, w.health.hasSteppedOut())
		assert.False(t, w.barred.Load())
		assert.EqualValues(t, 2, w.turns.Load())
		assert.Equal(t, []string{"well to stalled", "stalled to stepped out", "stepped out to well"}, w.changes)
	})
}

// TestStalledWithTheOthersStays checks that a stalled leader stays if the others are
// stalled too, because every lease would end if it left.
func TestStalledWithTheOthersStays(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWard(t)
		w.term.Store(3)
		w.health.begin()
		time.Sleep(30 * time.Second)
		synctest.Wait()
		assert.False(t, w.health.hasSteppedOut())
		assert.Zero(t, w.turns.Load())
		assert.Greater(t, w.asked.Load(), int64(100), "the leader does not ask repeatedly")
		w.healthy.Store(true)
		time.Sleep(2 * healthTick)
		synctest.Wait()
		assert.True(t, w.health.hasSteppedOut())
	})
}

// TestStalledLeaderTriesOnceMore checks that a leader whose writes fail attempts them
// once more before it leaves. The others may only have noticed earlier that their disks
// have room.
func TestStalledLeaderTriesOnceMore(t *testing.T) {
	for _, c := range []struct {
		name  string
		retry func(h *health, id uint64)
		away  bool
	}{
		{"succeeds", func(h *health, id uint64) { h.ended(id) }, false},
		{"fails again", func(h *health, id uint64) { h.fault(id, errors.New("no space left")) }, true},
		{"hangs", func(*health, uint64) {}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := newWard(t)
				w.term.Store(3)
				id := w.health.begin()
				w.health.fault(id, errors.New("no space left"))
				retry := func() {
					go func() {
						time.Sleep(stalledAfter / 2) // a repair and a write take time
						c.retry(w.health, id)
					}()
				}
				w.retry.Store(&retry)
				time.Sleep(4 * time.Second)
				w.healthy.Store(true)
				time.Sleep(stalledAfter + 2*healthTick)
				synctest.Wait()
				assert.Equal(t, c.away, w.health.hasSteppedOut())
			})
		})
	}
}

// TestStalledFollowerDoesNotAsk checks that a stalled follower does not ask the others,
// because it has no leadership to leave.
func TestStalledFollowerDoesNotAsk(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWard(t)
		w.healthy.Store(true)
		w.health.begin()
		time.Sleep(30 * time.Second)
		synctest.Wait()
		assert.Zero(t, w.asked.Load())
		got, _ := w.health.status()
		assert.Equal(t, Stalled, got.State)
		assert.Equal(t, 29*time.Second, got.Since)
	})
}

// TestStepsInIfNoOtherLeads checks that a node that stepped out renews leases again if
// the others could not elect a leader.
func TestStepsInIfNoOtherLeads(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWard(t)
		w.term.Store(3)
		w.healthy.Store(true)
		w.health.begin()
		time.Sleep(2 * time.Second)
		w.healthy.Store(false)
		synctest.Wait()
		require.True(t, w.barred.Load())
		w.newer.Store(true)
		time.Sleep(3 * outFor)
		synctest.Wait()
		require.True(t, w.barred.Load(), "another node leads")
		w.newer.Store(false)
		time.Sleep(outFor)
		synctest.Wait()
		assert.False(t, w.barred.Load())
		got, _ := w.health.status()
		assert.Equal(t, Stalled, got.State)
	})
}

// TestUnresponsiveBeforeItIsStalled checks that a node reports to the others that it is
// unhealthy before it leaves, so that no two nodes leave to each other.
func TestUnresponsiveBeforeItIsStalled(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWard(t)
		assert.True(t, w.health.isResponsive())
		id := w.health.begin()
		time.Sleep(slowAfter)
		assert.False(t, w.health.isResponsive())
		w.health.ended(id)
		assert.True(t, w.health.isResponsive())
		id = w.health.begin()
		w.health.fault(id, errors.New("no space left on device"))
		assert.False(t, w.health.isResponsive(), "a write failed and is being repeated")
		got, disk := w.health.status()
		assert.Equal(t, Well, got.State, "it may still be in time")
		require.ErrorContains(t, disk.Fault, "no space left")
		assert.EqualValues(t, 1, disk.Faults)
		w.health.ended(id)
		assert.True(t, w.health.isResponsive())
	})
}

// TestDamageIsPermanent checks that no later success makes a node with damaged data
// well.
func TestDamageIsPermanent(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWard(t)
		damage := errors.New("damaged at offset 96")
		id := w.health.begin()
		w.health.permanent(damage)
		w.health.ended(id)
		time.Sleep(time.Minute)
		got, _ := w.health.status()
		assert.Equal(t, Failed, got.State)
		require.ErrorIs(t, got.Err, damage)
		assert.False(t, w.health.isResponsive())
	})
}
