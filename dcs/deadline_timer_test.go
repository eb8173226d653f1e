package dcs

import (
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/internal/bubble"
)

func TestDeadlineTimerFiresExactly(t *testing.T) {
	suspend(t, 0) // both clocks are the bubble's
	bubble.Test(t, func(t *testing.T) {
		fired := make(chan time.Time, 10)
		a := newDeadlineTimer(func() { fired <- time.Now() }, func(func()) { t.Error("a goroutine in a bubble keeps time from passing") })
		defer a.stop()
		start := time.Now()
		a.set(Now().Add(time.Second))
		a.set(Now().Add(time.Minute))
		if d := (<-fired).Sub(start); d != time.Minute {
			t.Errorf("fired after %v", d)
		}
		a.set(Now().Add(time.Second))
		a.stop()
		a.set(Now().Add(time.Second))
		time.Sleep(time.Hour)
		if len(fired) != 0 {
			t.Error("fired after it was stopped")
		}
	})
}
