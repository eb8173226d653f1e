// Package machinelock keeps the tests that measure latency from disturbing each
// other when several test processes share one machine.
//
// A process that measures holds the lock exclusively while it does so. A process
// that keeps the processors busy holds the lock shared. A process that mostly
// waits needs no lock.
package machinelock

import (
	"fmt"
	"os"
)

// Env names the environment variable that holds the lock file's path. The runner
// of make test sets it. Without it nothing else is running, and [Exclusive]
// returns at once.
const Env = "HOLDFAST_EXCLUSIVE"

// Exclusive blocks until no other process holds the lock named by [Env], and
// takes it. The caller must call unlock once. The process must not hold the lock
// already.
func Exclusive() (unlock func(), err error) {
	path := os.Getenv(Env)
	if path == "" {
		return func() {}, nil
	}
	return Lock(path)
}

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
