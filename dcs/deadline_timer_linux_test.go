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
	a := newDeadlineTimer(func() { rung <- struct{}{} }, work.Go)
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
	if bootTimers.file != nil {
		t.Error("the descriptor is still open")
	}
}

// All alarms of a process share one descriptor and one goroutine, and each
// rings at its own time: the others here are an hour away.
func TestAlarmsShareOneBell(t *testing.T) {
	var work sync.WaitGroup
	rung := make(chan int, 100)
	var alarms []*deadlineTimer
	before := runtime.NumGoroutine()
	for i := range 50 {
		a := newDeadlineTimer(func() { rung <- i }, work.Go)
		a.boot.set(Now().Add(time.Hour))
		alarms = append(alarms, a)
	}
	if more := runtime.NumGoroutine() - before; more > 5 {
		t.Errorf("50 alarms cost %d goroutines", more)
	}
	rings := func(i int) {
		select {
		case got := <-rung:
			if got != i {
				t.Errorf("alarm %d rang instead of %d", got, i)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("alarm %d never rang", i)
		}
	}
	for i, a := range alarms {
		a.boot.set(Now().Add(2 * time.Millisecond))
		rings(i)
	}
	// One is set before the other has rung, and none after.
	alarms[1].boot.set(Now().Add(time.Second))
	alarms[0].boot.set(Now().Add(2 * time.Millisecond))
	rings(0)
	rings(1)
	for _, a := range alarms {
		a.stop()
	}
	work.Wait()
	if len(rung) > 0 {
		t.Errorf("%d alarms rang that were not due", len(rung))
	}
	if bootTimers.file != nil {
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
