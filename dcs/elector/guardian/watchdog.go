package guardian

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// WatchdogOptions configure a [Watchdog].
type WatchdogOptions struct {
	// Path is the device. Empty means /dev/watchdog.
	Path string
	// Timeout is how long after its last keepalive the device resets the machine, in
	// whole seconds. It must be less than the time until the first deadline: 10 s, the
	// default, suits a TTL of 30 s.
	Timeout time.Duration
	// Logger receives faults of the device. Nil means silent.
	Logger *slog.Logger
}

const (
	watchdogPath    = "/dev/watchdog"
	watchdogTimeout = 10 * time.Second
	// Keepalives are sent so often in a Timeout, so that one may be late.
	keepalives = 4
)

// device is an open watchdog device.
type device interface {
	// setTimeout returns the timeout that the device took.
	setTimeout(seconds int) (int, error)
	keepalive() error
	// disarm closes the device in the way that stops it.
	disarm() error
}

// Watchdog is a watchdog device, which resets the machine when it gets no keepalive.
// It implements elector.Guardian. All methods are safe for concurrent use.
//
// The device is open, and therefore counts, only while the Watchdog is armed. A
// goroutine sends keepalives as long as the device would not reset the machine after
// the instant. It depends on nothing but the instant.
type Watchdog struct {
	open    func() (device, error)
	seconds int
	log     *slog.Logger

	mu      sync.Mutex
	device  device        // nil if it is not armed
	timeout time.Duration // as the device took it
	at      dcs.Instant
	changed chan struct{} // at has changed
	end     chan struct{} // ends the goroutine
}

// OpenWatchdog returns a Watchdog. It does not open the device. ErrInvalid reports that
// there is none, that the system has no such devices, or that the device cannot be
// stopped once it was opened (nowayout).
func OpenWatchdog(o WatchdogOptions) (*Watchdog, error) {
	if o.Path == "" {
		o.Path = watchdogPath
	}
	if err := checkDevice(o.Path); err != nil {
		return nil, failure("OpenWatchdog", dcs.ErrInvalid, err)
	}
	return newWatchdog(o, func() (device, error) { return openDevice(o.Path) })
}

func newWatchdog(o WatchdogOptions, open func() (device, error)) (*Watchdog, error) {
	if o.Timeout == 0 {
		o.Timeout = watchdogTimeout
	}
	if o.Timeout < time.Second || o.Timeout%time.Second != 0 {
		return nil, failure("OpenWatchdog", dcs.ErrInvalid, fmt.Errorf("Timeout %v must be a number of whole seconds, at least 1 s", o.Timeout))
	}
	w := &Watchdog{open: open, seconds: int(o.Timeout / time.Second), changed: make(chan struct{}, 1)}
	w.log, _ = dcs.Detached(o.Logger, dcs.Observer{})
	return w, nil
}

// Arm implements elector.Guardian. It opens the device. It fails if the device would
// not reset the machine before the instant.
func (w *Watchdog) Arm(at dcs.Instant) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.device != nil {
		w.at = at
		w.notify()
		return nil
	}
	d, err := w.open()
	if err != nil {
		return failure("Arm", dcs.ErrUnavailable, err)
	}
	seconds, err := d.setTimeout(w.seconds)
	timeout := time.Duration(seconds) * time.Second
	if left := -at.Elapsed(); err == nil && (timeout <= 0 || timeout >= left) {
		err = fmt.Errorf("the device resets the machine after %v, and %v are left until the deadline: set a shorter Timeout, or a longer TTL", timeout, left)
	}
	if err == nil {
		err = d.keepalive()
	}
	if err != nil {
		return failure("Arm", dcs.ErrUnavailable, errors.Join(err, d.disarm()))
	}
	w.device, w.timeout, w.at, w.end = d, timeout, at, make(chan struct{})
	go w.serve(w.end) // ends with Disarm
	return nil
}

// Extend implements elector.Guardian.
func (w *Watchdog) Extend(at dcs.Instant) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at = at
	w.notify()
	return nil
}

// Disarm implements elector.Guardian. It stops and closes the device.
func (w *Watchdog) Disarm() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.device
	if d == nil {
		return nil
	}
	w.device = nil
	close(w.end)
	if err := d.disarm(); err != nil {
		return failure("Disarm", dcs.ErrUnavailable, fmt.Errorf("watchdog device could not be stopped and may reset the machine: %w", err))
	}
	return nil
}

func (w *Watchdog) notify() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// serve sends keepalives until end is closed.
func (w *Watchdog) serve(end <-chan struct{}) {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-end:
			return
		case <-w.changed:
		case <-t.C:
		}
		if next, ok := w.beat(end); ok {
			t.Reset(next)
		} else {
			t.Stop()
		}
	}
}

// beat sends a keepalive if the device then resets the machine at the instant at the
// latest. It returns when the next one is due, or false if that would be too late.
func (w *Watchdog) beat(end <-chan struct{}) (next time.Duration, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.end != end || w.device == nil {
		return 0, false
	}
	left := -w.at.Elapsed() - w.timeout // until the last moment of a keepalive
	if left < 0 {
		return 0, false
	}
	if err := w.device.keepalive(); err != nil {
		w.log.Error("watchdog device takes no keepalive: it may reset the machine", "error", err)
	}
	left = -w.at.Elapsed() - w.timeout
	if left <= 0 {
		return 0, false
	}
	// The last one is as late as possible, so that the machine has the whole time.
	return min(w.timeout/keepalives, left), true
}
