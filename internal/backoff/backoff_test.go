package backoff

import (
	"context"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/internal/bubble"
	"github.com/stretchr/testify/require"
)

// The bound doubles up to Most, for any number of failures, and a delay is between 0,
// excluded, and the bound.
func TestBoundDoubles(t *testing.T) {
	e := Exponential{First: 5 * time.Millisecond, Most: 250 * time.Millisecond}
	for failures, want := range map[int]time.Duration{-1: 5, 0: 5, 1: 10, 5: 160, 6: 250, 63: 250, 1000: 250} {
		require.Equal(t, want*time.Millisecond, e.Bound(failures), "%d failures", failures)
	}
	for _, row := range []struct {
		draw func(n int64) int64
		want time.Duration
	}{
		{func(int64) int64 { return 0 }, 1},
		{func(n int64) int64 { return n - 1 }, 20 * time.Millisecond},
	} {
		e.Rand = row.draw
		require.Equal(t, row.want, e.Delay(2))
	}
	require.Equal(t, time.Duration(1), Exponential{}.Delay(3), "no bound at all")
}

// Different clients wait for different times.
func TestDelaysAreSpread(t *testing.T) {
	e := Exponential{First: time.Second, Most: time.Second}
	var low, high int
	for range 200 {
		switch d := e.Delay(0); {
		case d <= time.Second/4:
			low++
		case d > time.Second*3/4:
			high++
		}
	}
	require.Greater(t, low, 20)
	require.Greater(t, high, 20)
}

// A wait ends with its context.
func TestWaitEndsWithItsContext(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		e := Exponential{First: time.Hour, Most: time.Hour, Rand: func(n int64) int64 { return n - 1 }}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		e.Wait(ctx, 0)
		require.Equal(t, time.Second, time.Since(began))
		e.Wait(t.Context(), 0)
		require.Equal(t, time.Second+time.Hour, time.Since(began))
	})
}
