package dcs

import (
	"os"
	"runtime"
	"sync"
	"testing"
	"time"
)

// The kernel's clock that counts suspend rings too, on its own.
func TestAlarmByBootClock(t *testing.T) {
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
	if bell.file != nil {
		t.Error("the descriptor is still open")
	}
}

// All alarms of a process share one descriptor and one goroutine, and each
// rings at its own time.
func TestAlarmsShareOneBell(t *testing.T) {
	var work sync.WaitGroup
	rung := make(chan int, 100)
	var alarms []*alarm
	before := runtime.NumGoroutine()
	for i := range 50 {
		a := newAlarm(func() { rung <- i }, work.Go)
		a.set(Now().Add(time.Duration(50-i) * 2 * time.Millisecond))
		a.timer.Stop() // as if it stood still
		alarms = append(alarms, a)
	}
	if more := runtime.NumGoroutine() - before; more > 5 {
		t.Errorf("50 alarms cost %d goroutines", more)
	}
	last := 50
	for range 50 {
		select {
		case i := <-rung:
			if i > last+5 { // they may overtake each other by little
				t.Errorf("%d rang after %d", i, last)
			}
			last = min(last, i)
		case <-time.After(10 * time.Second):
			t.Fatal("one never rang")
		}
	}
	for _, a := range alarms {
		a.stop()
	}
	work.Wait()
	if bell.file != nil {
		t.Error("the descriptor is still open")
	}
}

// A session outside a bubble gives back its descriptor and its goroutines.
func TestSessionLeavesNoDescriptor(t *testing.T) {
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
