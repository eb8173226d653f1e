package dcs

import (
	"os"
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
	if _, err := a.boot.file.Read(make([]byte, 8)); err == nil {
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
