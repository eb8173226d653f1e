package dcs

import (
	"os"
	"runtime"
	"sync"
	"testing"
	"time"
)

// The timer on the kernel's boot clock, which counts suspend, fires by itself.
func TestDeadlineTimerByBootClock(t *testing.T) {
	if inBubble() {
		t.Fatal("a bubble was detected outside of one")
	}
	fired := make(chan struct{}, 10)
	var work sync.WaitGroup
	a := newDeadlineTimer(func() { fired <- struct{}{} }, work.Go)
	at := Now().Add(20 * time.Millisecond)
	a.set(at)
	a.timer.Stop() // as if Go's clock stood still
	select {
	case <-fired:
		if early := at.Elapsed(); early < -5*time.Millisecond {
			t.Errorf("fired %v early", -early)
		}
	case <-time.After(10 * time.Second):
		t.Error("never fired")
	}
	a.stop()
	a.stop()
	work.Wait()
	if bootTimers.file != nil {
		t.Error("the descriptor is still open")
	}
}

// All deadline timers of a process share one descriptor and one goroutine, and each
// fires at its own time. The others here are an hour away.
func TestDeadlineTimersShareOneDescriptor(t *testing.T) {
	var work sync.WaitGroup
	fired := make(chan int, 100)
	var timers []*deadlineTimer
	before := runtime.NumGoroutine()
	for i := range 50 {
		a := newDeadlineTimer(func() { fired <- i }, work.Go)
		a.boot.set(Now().Add(time.Hour))
		timers = append(timers, a)
	}
	if more := runtime.NumGoroutine() - before; more > 5 {
		t.Errorf("50 timers cost %d goroutines", more)
	}
	expect := func(i int) {
		select {
		case got := <-fired:
			if got != i {
				t.Errorf("timer %d fired instead of %d", got, i)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("timer %d never fired", i)
		}
	}
	for i, a := range timers {
		a.boot.set(Now().Add(2 * time.Millisecond))
		expect(i)
	}
	// Set one timer before another has fired, and none after.
	timers[1].boot.set(Now().Add(time.Second))
	timers[0].boot.set(Now().Add(2 * time.Millisecond))
	expect(0)
	expect(1)
	for _, a := range timers {
		a.stop()
	}
	work.Wait()
	if len(fired) > 0 {
		t.Errorf("%d timers fired that were not due", len(fired))
	}
	if bootTimers.file != nil {
		t.Error("the descriptor is still open")
	}
}

// A session outside a bubble closes its descriptor and ends its goroutines.
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
		t.Errorf("%d more descriptors are open", after-before)
	}
}
