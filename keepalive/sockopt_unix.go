//go:build aix || darwin || dragonfly || freebsd || linux || netbsd || openbsd || solaris

package keepalive

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// option is one socket option of level IPPROTO_TCP that holds a time in whole units, or a count when unit is zero. A
// number of zero stands for an option that the system does not have.
type option struct {
	name   string
	number int
	unit   time.Duration
}

// optionSet is how one system spells a Config. Each sockopt_<system>.go fills one.
type optionSet struct {
	idle, interval, count, userTimeout option
	// zeroIsOff says that a user timeout of zero turns the limit off, so that zero is written too.
	zeroIsOff bool
}

// isTCP reports whether the descriptor is a stream socket of the internet families.
func isTCP(fd uintptr) (bool, error) {
	kind, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return false, fmt.Errorf("keepalive: reading SO_TYPE: %w", err)
	}
	if kind != unix.SOCK_STREAM {
		return false, nil
	}
	sa, err := unix.Getsockname(int(fd))
	if err != nil {
		return false, fmt.Errorf("keepalive: getsockname: %w", err)
	}
	switch sa.(type) {
	case *unix.SockaddrInet4, *unix.SockaddrInet6:
		return true, nil
	}
	return false, nil
}

// setOptions turns keepalive on and sets clamped values. It tries every option, whichever of them fail.
func setOptions(fd uintptr, c Config) error {
	l, set := System(), systemOptions()
	errs := []error{setInt(fd, unix.SOL_SOCKET, "SO_KEEPALIVE", unix.SO_KEEPALIVE, 1)}
	if l.perSocket() {
		// The interval comes before the count: illumos guesses an interval for a count that has none.
		errs = append(errs, set.idle.set(fd, c.Idle), set.interval.set(fd, c.Interval))
		if set.count.number != 0 {
			errs = append(errs, setInt(fd, unix.IPPROTO_TCP, set.count.name, set.count.number, c.Count))
		}
	}
	if !l.UserTimeout.missing() && (c.UserTimeout > 0 || set.zeroIsOff) {
		errs = append(errs, set.userTimeout.set(fd, c.UserTimeout))
	}
	return errors.Join(errs...)
}

// getOptions reads the options of the socket.
func getOptions(fd uintptr) (Config, error) {
	l, set := System(), systemOptions()
	if !l.perSocket() {
		return Config{}, fmt.Errorf("keepalive: %s has no keepalive values per socket: %w", l.OS, errors.ErrUnsupported)
	}
	on, err := getInt(fd, unix.SOL_SOCKET, "SO_KEEPALIVE", unix.SO_KEEPALIVE)
	if err != nil {
		return Config{}, err
	}
	var c Config
	if !l.UserTimeout.missing() {
		if c.UserTimeout, err = set.userTimeout.get(fd); err != nil {
			return Config{}, err
		}
	}
	if on == 0 {
		return c, nil
	}
	if c.Idle, err = set.idle.get(fd); err != nil {
		return Config{}, err
	}
	if c.Interval, err = set.interval.get(fd); err != nil {
		return Config{}, err
	}
	c.Count = l.FixedCount
	if set.count.number != 0 {
		c.Count, err = getInt(fd, unix.IPPROTO_TCP, set.count.name, set.count.number)
	}
	return c, err
}

// set writes a clamped time; the limits keep the quotient inside an int of 32 bits.
func (o option) set(fd uintptr, d time.Duration) error {
	return setInt(fd, unix.IPPROTO_TCP, o.name, o.number, int(d/o.unit))
}

func (o option) get(fd uintptr) (time.Duration, error) {
	n, err := getInt(fd, unix.IPPROTO_TCP, o.name, o.number)
	return time.Duration(n) * o.unit, err
}

func setInt(fd uintptr, level int, name string, number, value int) error {
	if err := unix.SetsockoptInt(int(fd), level, number, value); err != nil {
		return fmt.Errorf("keepalive: setting %s to %d: %w", name, value, err)
	}
	return nil
}

func getInt(fd uintptr, level int, name string, number int) (int, error) {
	n, err := unix.GetsockoptInt(int(fd), level, number)
	if err != nil {
		return 0, fmt.Errorf("keepalive: reading %s: %w", name, err)
	}
	return n, nil
}
