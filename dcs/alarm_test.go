package dcs

import (
	"os"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestAlarmRingsExactly(t *testing.T) {
	suspend(t, 0) // both clocks are the bubble's
	synctest.Test(t, func(t *testing.T) {
		rung := make(chan time.Time, 10)
		a := newAlarm(func() { rung <- time.Now() }, func(func()) { t.Error("a goroutine in a bubble keeps time from passing") })
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

// On Linux the kernel's clock that counts suspend rings too, on its own.
func TestAlarmByBootClock(t *testing.T) {
	if runtime.GOOS != "linux" {
		a := newAlarm(func() {}, func(func()) { t.Error("no goroutine is needed here") })
		a.stop()
		return
	}
	if inBubble() {
		t.Fatal("this is no bubble")
	}
	rung := make(chan struct{}, 10)
	var work sync.WaitGroup
	a := newAlarm(func() { rung <- struct{}{} }, work.Go)
	at := Now().Add(20 * time.Millisecond)
	a.set(at)
	a.timer.Stop() // as if it stood still
	select {
	case <-rung:
		if early := at.Elapsed(); early < -5*time.Millisecond {
			t.Errorf("rang %v early", -early)
		}
	case <-time.After(10 * time.Second):
		t.Error("never rang")
	}
	a.stop()
	a.stop()
	work.Wait()
	if _, err := a.boot.file.Read(nil); err == nil {
		t.Error("the descriptor is still open")
	}
}

// A session outside a bubble gives back its descriptor and its goroutines.
func TestSessionLeavesNoDescriptor(t *testing.T) {
	if runtime.GOOS != "linux" {
		return
	}
	count := func() int {
		files, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(files)
	}
	_, s := realSession(t)
	_ = s.Close(t.Context())
	before := count()
	for range 10 {
		_, s := realSession(t)
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if after := count(); after > before {
		t.Errorf("%d descriptors more", after-before)
	}
}
