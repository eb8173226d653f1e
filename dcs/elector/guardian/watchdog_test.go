package guardian

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
)

// fakeDevice resets the machine when its timeout has passed since the last keepalive.
type fakeDevice struct {
	granted int // overrides the requested timeout

	mu      sync.Mutex
	timeout time.Duration
	timer   *time.Timer
	beats   int
	resetAt dcs.Instant
}

func (d *fakeDevice) setTimeout(seconds int) (int, error) {
	if d.granted > 0 {
		seconds = d.granted
	}
	d.timeout = time.Duration(seconds) * time.Second
	d.timer = time.AfterFunc(d.timeout, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.resetAt = dcs.Now()
	})
	return seconds, nil
}

func (d *fakeDevice) keepalive() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.beats++
	d.timer.Reset(d.timeout)
	return nil
}

func (d *fakeDevice) disarm() error {
	if d.timer != nil {
		d.timer.Stop()
	}
	return nil
}

func (d *fakeDevice) reset() dcs.Instant {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.resetAt
}

func watchdog(t *testing.T, d *fakeDevice) *Watchdog {
	t.Helper()
	w, err := newWatchdog(WatchdogOptions{}, func() (device, error) { return d, nil })
	noError(t, err)
	return w
}

// The machine is reset at the instant: not later, and not much earlier.
func TestWatchdogResetsAtTheInstant(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		d := &fakeDevice{}
		w := watchdog(t, d)
		at := dcs.Now().Add(28500 * time.Millisecond)
		noError(t, w.Arm(at))
		for range 20 { // renewals
			time.Sleep(10 * time.Second)
			at = at.Add(10 * time.Second)
			noError(t, w.Extend(at))
		}
		must(t, d.reset().IsZero(), "the machine was reset")
		time.Sleep(time.Minute)
		must(t, !d.reset().IsZero(), "the machine was not reset")
		must(t, d.reset().Sub(at) == 0, "the machine was reset after the instant by", d.reset().Sub(at))
		noError(t, w.Disarm())
	})
}

// An instant that is so near that a keepalive would outlast it gets none.
func TestWatchdogMovedBack(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		d := &fakeDevice{}
		w := watchdog(t, d)
		noError(t, w.Arm(dcs.Now().Add(28*time.Second)))
		time.Sleep(time.Second)
		synctest.Wait()
		beats := d.beats
		noError(t, w.Extend(dcs.Now().Add(w.timeout-time.Second)))
		time.Sleep(time.Minute)
		noError(t, w.Disarm())
		must(t, d.beats == beats, "keepalives were sent", d.beats-beats)
	})
}

func TestWatchdogDisarmed(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		d := &fakeDevice{}
		w := watchdog(t, d)
		noError(t, w.Disarm())
		for range 2 {
			noError(t, w.Arm(dcs.Now().Add(20*time.Second)))
			time.Sleep(15 * time.Second)
			noError(t, w.Disarm())
			noError(t, w.Extend(dcs.Now().Add(time.Hour)))
		}
		beats := d.beats
		time.Sleep(time.Hour)
		must(t, d.reset().IsZero(), "the machine was reset")
		must(t, beats == d.beats, "keepalives were sent after Disarm", d.beats-beats)
	})
}

// A device that takes a longer timeout than it should would reset the machine too late.
func TestWatchdogIsTooSlow(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		d := &fakeDevice{granted: 60}
		w := watchdog(t, d)
		err := w.Arm(dcs.Now().Add(28 * time.Second))
		noError(t, w.Disarm())
		errorIs(t, err, dcs.ErrUnavailable)
		time.Sleep(time.Hour)
		must(t, d.reset().IsZero(), "the machine was reset")
	})
}

func TestWatchdogOptions(t *testing.T) {
	_, err := OpenWatchdog(WatchdogOptions{Path: t.TempDir()})
	errorIs(t, err, dcs.ErrInvalid)
	for _, d := range []time.Duration{-time.Second, time.Millisecond, 1500 * time.Millisecond} {
		_, err := newWatchdog(WatchdogOptions{Timeout: d}, nil)
		errorIs(t, err, dcs.ErrInvalid)
	}
	w, err := newWatchdog(WatchdogOptions{}, func() (device, error) { return nil, errors.New("busy") })
	noError(t, err)
	errorContains(t, w.Arm(dcs.Now().Add(time.Hour)), "busy")
}
