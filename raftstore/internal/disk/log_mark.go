package disk

import (
	"math/rand/v2"
	"time"
)

const (
	// markDelay is how long after a change the mark is saved. Damage of records
	// that are younger is not distinguished from a crash.
	markDelay = 100 * time.Millisecond
	// mostMarkDelay bounds the pauses after errors, which double.
	mostMarkDelay = 2 * time.Second
)

// markSaver saves the end of a log in the background.
type markSaver struct {
	save   func(LogEnd) error
	end    func() LogEnd
	saved  LogEnd // belongs to the goroutine
	change chan struct{}
	now    chan struct{}
	stop   chan struct{}
	done   chan struct{}
}

// startMarks starts a saver of end, which was saved already.
func startMarks(save func(LogEnd) error, end func() LogEnd, saved LogEnd) *markSaver {
	m := &markSaver{
		save:   save,
		end:    end,
		saved:  saved,
		change: make(chan struct{}, 1),
		now:    make(chan struct{}, 1),
		stop:   make(chan struct{}),
		done:   make(chan struct{}),
	}
	go m.run()
	return m
}

// moved reports that the end has moved.
func (m *markSaver) moved() { signal(m.change) }

// hurry lets the saver not wait.
func (m *markSaver) hurry() { signal(m.now) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// close saves the end for the last time.
func (m *markSaver) close() error {
	close(m.stop)
	<-m.done
	return m.try()
}

func (m *markSaver) run() {
	defer close(m.done)
	for {
		select {
		case <-m.stop:
			return
		case <-m.change:
		}
		delay := markDelay
		for m.pause(delay) && m.try() != nil {
			longest := min(2*delay, mostMarkDelay)
			delay = longest/2 + time.Duration(rand.Int64N(int64(longest/2))) //nolint:gosec // G404: jitter, no secret
		}
	}
}

// pause waits, less long where the saver must hurry. It reports false at the
// end.
func (m *markSaver) pause(delay time.Duration) bool {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-m.stop:
		return false
	case <-m.now:
	case <-timer.C:
	}
	return true
}

// try saves the end, which is durable in the log.
func (m *markSaver) try() error {
	end := m.end()
	if end == m.saved {
		return nil
	}
	if err := m.save(end); err != nil {
		return err
	}
	m.saved = end
	return nil
}
