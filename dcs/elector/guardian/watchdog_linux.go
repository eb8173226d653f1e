package guardian

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// checkDevice returns the reason why the watchdog at path cannot be used.
func checkDevice(path string) error {
	s, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case s.Mode()&os.ModeCharDevice == 0:
		return fmt.Errorf("%s is no device", path)
	}
	name := filepath.Base(path)
	if name == filepath.Base(watchdogPath) {
		name += "0" // the first device has two names
	}
	// A kernel without this file has no such setting to show.
	text, _ := os.ReadFile(filepath.Join("/sys/class/watchdog", name, "nowayout")) //nolint:gosec // G304: the name of a device
	if strings.TrimSpace(string(text)) == "1" {
		return fmt.Errorf("%s cannot be stopped once it was opened: load its driver with nowayout=0", path)
	}
	return nil
}

// file is a watchdog device of the kernel, as its documentation describes it.
type file struct{ *os.File }

// openDevice opens the device, which then begins to count.
func openDevice(path string) (device, error) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0) //nolint:gosec // G304: the program's own setting
	if err != nil {
		return nil, err
	}
	d := file{f}
	info, err := unix.IoctlGetWatchdogInfo(int(f.Fd()))
	switch {
	case err != nil:
		err = fmt.Errorf("%s is no watchdog: %w", path, err)
	case info.Options&unix.WDIOF_MAGICCLOSE == 0:
		err = fmt.Errorf("%s cannot be stopped by its user (no magic close)", path)
	case info.Options&unix.WDIOF_SETTIMEOUT == 0:
		err = fmt.Errorf("%s has a timeout that cannot be set", path)
	default:
		return d, nil
	}
	return nil, errors.Join(err, d.disarm())
}

func (f file) setTimeout(seconds int) (int, error) {
	fd := int(f.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.WDIOC_SETTIMEOUT, seconds); err != nil {
		return 0, fmt.Errorf("timeout of %d s cannot be set: %w", seconds, err)
	}
	return unix.IoctlGetInt(fd, unix.WDIOC_GETTIMEOUT)
}

func (f file) keepalive() error {
	_, err := f.Write([]byte{0})
	return err
}

// disarm writes the letter that makes the device stop when it is closed.
func (f file) disarm() error {
	_, err := f.WriteString("V")
	return errors.Join(err, f.Close())
}
