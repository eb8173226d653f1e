package dcs

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestAlarmRingsExactly(t *testing.T) {
	suspend(t, 0) // both clocks are the bubble's
	synctest.Test(t, func(t *testing.T) {
		rung := make(chan time.Time, 10)
		a := newDeadlineTimer(func() { rung <- time.Now() }, func(func()) { t.Error("a goroutine in a bubble keeps time from passing") })
		defer a.stop()
		start := time.Now()
		a.set(Now().Add(time.Second))
		a.set(Now().Add(time.Minute))
		if d := (<-rung).Sub(start); d != time.Minute {
			t.Errorf("rang after %v", d)
		}
		a.set(Now().Add(time.Second))
		a.stop()
		a.set(Now().Add(time.Second))
		time.Sleep(time.Hour)
		if len(rung) != 0 {
			t.Error("rang after it was stopped")
		}
	})
}
