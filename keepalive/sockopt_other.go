//go:build !(aix || darwin || dragonfly || freebsd || linux || netbsd || openbsd || solaris || windows)

package keepalive

import (
	"errors"
	"fmt"
)

func systemLimits() Limits { return unknownLimits }

func isTCP(uintptr) (bool, error) { return false, nil }

func setOptions(uintptr, Config) error { return nil }

func getOptions(uintptr) (Config, error) {
	return Config{}, fmt.Errorf("keepalive: no socket options here: %w", errors.ErrUnsupported)
}
