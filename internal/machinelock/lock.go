// Package machinelock lets the processes of one machine exclude each other by a
// file. The runner of make test holds the lock exclusively while tests measure
// latency, and shared while tests keep the processors busy.
package machinelock

import (
	"fmt"
	"os"
)

// Lock blocks until no other process holds the lock file at path, and takes it
// exclusively.
func Lock(path string) (unlock func(), err error) { return lock(path, exclusive) }

// RLock blocks until no other process holds the lock file at path exclusively,
// and takes it shared.
func RLock(path string) (unlock func(), err error) { return lock(path, shared) }

type mode int

const (
	exclusive mode = iota
	shared
)

func lock(path string, m mode) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // G304: the caller's lock file is the purpose
	if err != nil {
		return nil, fmt.Errorf("machinelock: %w", err)
	}
	if err := flock(f, m); err != nil {
		f.Close()
		return nil, fmt.Errorf("machinelock: cannot lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil // closing the file releases the lock
}
