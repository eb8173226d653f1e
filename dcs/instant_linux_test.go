package dcs

import (
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/internal/bubble"
)

// Boottime is the reading of the kernel's clock at the Instant, and never later.
func TestBoottime(t *testing.T) {
	for range 1000 {
		i := Now()
		after, ok := bootTime()
		got, known := i.Boottime()
		if !ok || !known || got > after || after-got > int64(time.Second) {
			t.Fatalf("Boottime %d (%v), the clock shows %d (%v) after it", got, known, after, ok)
		}
		if later, _ := i.Add(time.Minute).Boottime(); later-got != int64(time.Minute) {
			t.Fatalf("a minute later is %d ns later", later-got)
		}
	}
	for _, i := range []Instant{{}, Now().Add(-1 << 62)} {
		if ns, ok := i.Boottime(); ok {
			t.Errorf("%+v: %d", i, ns)
		}
	}
	bubble.Test(t, func(t *testing.T) {
		if ns, ok := Now().Boottime(); ok {
			t.Errorf("in a bubble: %d", ns)
		}
	})
}

// The time that the machine was suspended is part of Boottime.
func TestBoottimeCountsSuspend(t *testing.T) {
	sleep := suspend(t, 0)
	before, _ := Now().Boottime()
	sleep(time.Hour)
	if after, ok := Now().Boottime(); !ok || after-before < int64(time.Hour) {
		t.Errorf("%v passed in an hour's suspend", time.Duration(after-before))
	}
}
