package conformance

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// control measures the delays of the machine while cases run, so that a bound on a latency
// can be widened by the time that the machine itself took. A sample makes the operations
// of a commit without a store. It waits for a timer, passes a byte through loopback sockets
// as often as a commit does, and from time to time writes to the disk. Its delay is the
// time beyond that of the timer. The delay of the timer and the disk is the time for which
// the machine stood still. That of the sockets also includes the load of this process,
// which has dozens of clients.
//
// All cases of a process share one control. It runs while it has a user.
type control struct {
	mu      sync.Mutex
	users   int
	stop    chan struct{}
	stopped chan struct{}
	samples []sample // the oldest first
	due     time.Time
}

// sample is one measurement, with the time at which it was due and the delay of its end.
// For a part of the delay the machine stood still.
type sample struct {
	due          time.Time
	delay, still time.Duration
	// contended is the time since the start of the machine for which at least one program
	// has waited for a processor. It is 0 if that is unknown.
	contended time.Duration
}

const (
	samplePause  = 20 * time.Millisecond
	sampleHops   = 8  // those of a commit: client, proxy, server, leader, follower, and back
	sampleDisk   = 10 // one sample in so many writes to the disk
	samplesKept  = 1 << 17
	sampleLength = 1024
)

var machine control

// use keeps the control running until release. The last user waits until the goroutine has
// ended.
func (c *control) use() (release func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.users++; c.users == 1 {
		c.stop, c.stopped = make(chan struct{}), make(chan struct{})
		go c.run(c.stop, c.stopped)
	}
	return sync.OnceFunc(func() {
		c.mu.Lock()
		c.users--
		last, stopped := c.users == 0, c.stopped
		if last {
			close(c.stop)
		}
		c.mu.Unlock()
		if last {
			<-stopped
		}
	})
}

// Control measures the delays of the machine until tb ends, for a test that bounds the
// time of its own work. The returned function returns the time by which the machine may have
// delayed work of many steps since a time: the sum of the delays, or the time for which
// programs waited for a processor, at most twice the bound. The test may add it to the bound.
func Control(tb testing.TB) (delayed func(since time.Time, bound time.Duration) time.Duration) {
	tb.Cleanup(machine.use())
	return func(since time.Time, bound time.Duration) (sum time.Duration) {
		samples := machine.between(since, time.Now())
		for _, s := range samples {
			sum += s.delay
		}
		return min(max(sum, mostContended(samples, time.Since(since))), mostShare*bound)
	}
}

func (c *control) run(stop, stopped chan struct{}) {
	defer close(stopped)
	echo := newEcho()
	defer echo.close()
	file, err := os.CreateTemp("", "holdfast-control-")
	if err == nil {
		defer os.Remove(filepath.Clean(file.Name()))
		defer file.Close()
	}
	timer := time.NewTimer(samplePause)
	defer timer.Stop()
	for n := 0; ; n++ {
		due := time.Now().Add(samplePause)
		timer.Reset(samplePause)
		c.begin(due)
		select {
		case <-timer.C:
		case <-stop:
			c.begin(time.Time{})
			return
		}
		woken := time.Now()
		echo.pass(sampleHops)
		passed := time.Now()
		if file != nil && n%sampleDisk == 0 {
			if _, err := file.WriteAt(make([]byte, sampleLength), 0); err == nil {
				_ = file.Sync() // the store's answers show a disk that fails
			}
		}
		delay := time.Since(due)
		c.end(sample{due, delay, delay - passed.Sub(woken), contended()})
	}
}

func (c *control) begin(due time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.due = due
}

func (c *control) end(s sample) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.samples) == samplesKept {
		c.samples = slices.Delete(c.samples, 0, samplesKept/2)
	}
	c.samples = append(c.samples, s)
}

// between returns the samples that ran between the two times, in their order. One that has
// not ended counts with its delay so far.
func (c *control) between(from, to time.Time) []sample {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []sample
	for i := len(c.samples) - 1; i >= 0; i-- {
		s := c.samples[i]
		if s.due.Add(s.delay).Before(from) {
			break
		}
		if !s.due.After(to) {
			out = append(out, s)
		}
	}
	slices.Reverse(out)
	if late := time.Since(c.due); !c.due.IsZero() && late > 0 && c.due.Before(to) {
		out = append(out, sample{due: c.due, delay: late})
	}
	return out
}

// echo passes bytes through a pair of loopback connections, by a goroutine at
// the other end.
type echo struct {
	here, there net.Conn
	over        chan struct{}
}

// newEcho returns an echo, or one that does nothing if there are no loopback sockets.
func newEcho() *echo {
	e := &echo{}
	ln, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // loopback does not block
	if err != nil {
		return e
	}
	defer ln.Close()
	here, err := net.Dial("tcp", ln.Addr().String()) //nolint:noctx // loopback does not block
	if err != nil {
		return e
	}
	there, err := ln.Accept()
	if err != nil {
		here.Close()
		return e
	}
	e.here, e.there, e.over = here, there, make(chan struct{})
	go func() {
		defer close(e.over)
		_, _ = io.Copy(there, there) // ends when the connection is closed
	}()
	return e
}

// pass passes a byte back and forth n times.
func (e *echo) pass(n int) {
	if e.here == nil {
		return
	}
	one := []byte{1}
	for range n / 2 {
		if _, err := e.here.Write(one); err != nil {
			return
		}
		if _, err := io.ReadFull(e.here, one); err != nil {
			return
		}
	}
}

func (e *echo) close() {
	if e.here == nil {
		return
	}
	e.here.Close()
	e.there.Close()
	<-e.over
}
