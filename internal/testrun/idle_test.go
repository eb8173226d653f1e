package main

import (
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/internal/bubble"
	"github.com/stretchr/testify/require"
)

// processorsWith returns the times of processors of which so many are always idle, or run niced
// programs.
func processorsWith(idle, nice float64, known bool) func() (processors, bool) {
	begin := time.Now()
	return func() (processors, bool) {
		up := float64(time.Since(begin))
		return processors{idle: time.Hour + time.Duration(idle*up), nice: time.Minute + time.Duration(nice*up)}, known
	}
}

func TestIdleMachine(t *testing.T) {
	for name, c := range map[string]struct {
		idle, nice float64 // processors
		known      bool
		want       bool
	}{
		"two idle processors":       {2, 0, true, true},
		"one idle processor":        {1, 0, true, false},
		"a program of low priority": {1, 1, true, false},
		"two programs are busy":     {0, 0, true, false},
		"little else is done":       {1.8, 0, true, true},
		"the time is not known":     {0, 0, false, false},
		"many processors, a few":    {12, 0, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				m := meter{read: processorsWith(c.idle, c.nice, c.known)}
				require.Equal(t, c.want, m.idleMachine(time.Sleep))
			})
		})
	}
}

// Only the time since the last call counts, and that of niced programs if asked for.
func TestFreeProcessors(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		m := meter{read: processorsWith(2, 0, true)}
		m.free(false)
		m.free(false) // no time has passed
		time.Sleep(time.Minute)
		require.InDelta(t, 2, m.free(false), 0.01)
		m.read = processorsWith(0.5, 0.25, true)
		m.free(false)
		time.Sleep(freeSample)
		require.InDelta(t, 0.5, m.free(false), 0.01)
		time.Sleep(freeSample)
		require.InDelta(t, 0.75, m.free(true), 0.01)
		m.read = processorsWith(2, 0, false)
		require.Zero(t, m.free(false))
	})
}

// Numbers of the caller hold on every machine, and nothing is measured.
func TestMeasuredCapacity(t *testing.T) {
	given := runner{lanes: 1, clusters: 1}
	given.measure(func(time.Duration) { t.Error("measured") })
	require.Equal(t, capacity{lanes: 1, clusters: 1}, given.fits)
	require.Equal(t, given.fits, given.most)
	require.Equal(t, "1 jobs at the same time, 1 of them with a cluster of servers", given.capacityLine())
	var r runner
	r.measure(func(time.Duration) {})
	require.Equal(t, always, r.fits)
	require.Equal(t, most, r.most)
	require.Equal(t, "3 jobs at the same time, 2 of them with a cluster of servers; up to 5 and 4 while processors are free", r.capacityLine())
}

func TestRoom(t *testing.T) {
	r := runner{most: most}
	require.Equal(t, capacity{}, r.room(0.1))
	require.Equal(t, capacity{lanes: most.lanes}, r.room(0.5), "no further cluster")
	require.Equal(t, most, r.room(1))
}
