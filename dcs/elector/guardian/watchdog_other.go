//go:build !linux

package guardian

import (
	"errors"
	"runtime"
)

var errNoWatchdog = errors.New("watchdog devices are not supported on " + runtime.GOOS + ", only on linux")

func checkDevice(string) error { return errNoWatchdog }

func openDevice(string) (device, error) { return nil, errNoWatchdog }
