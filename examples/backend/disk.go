//go:build linux

package filestore

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Step 2: atomic reads and writes of the state, and the clock that all clients share.

// The files in the store's directory. The state is never changed in place. It is replaced
// by a rename, so that a reader finds the old one or the new one.
const (
	stateFile = "state"
	newFile   = "state.new"
	lockFile  = "lock"
)

// clock returns the time since the machine was started, including the time during which
// it was suspended. It is one clock for all processes of the machine and cannot be set.
// This is the store's own clock. A deadline in the state is compared with nothing else.
// The clock of a client decides only about the client's own deadline (dcs.Instant).
func clock() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(err) // every kernel since 2.6.39 has the clock
	}
	return time.Duration(t.Nano())
}

// bootID names the present boot of the machine.
func bootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id)), err
}

// cache is the last state that a client has read or written. The file stays open, so that
// no other file can have its identity, and a look at the directory is enough to see that
// the state is still the same.
type cache struct {
	sync.Mutex
	file  *os.File
	info  os.FileInfo
	state *state
}

func (c *cache) put(f *os.File, info os.FileInfo, s *state) {
	if c.file != nil {
		_ = c.file.Close() // it was only read
	}
	c.file, c.info, c.state = f, info, s
}

// load returns the present state, which must not be modified.
func (b *Store) load() (*state, error) {
	b.cache.Lock()
	defer b.cache.Unlock()
	f, err := os.Open(filepath.Join(b.dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return newState(), nil // a store without a file is empty
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && os.SameFile(info, b.cache.info) {
		_ = f.Close() // it was only read
		return b.cache.state, nil
	}
	s := newState()
	if err == nil {
		err = json.NewDecoder(f).Decode(s)
	}
	if err != nil {
		_ = f.Close() // it was only read
		return nil, fmt.Errorf("%s is not readable: %w", f.Name(), err)
	}
	b.cache.put(f, info, s)
	return s, nil
}

// save replaces the state. The caller must have the lock. An error that wraps ErrNotSent
// means that nothing was written. After any other error the new state may be in force.
func (b *Store) save(s *state) error {
	f, err := os.OpenFile(filepath.Join(b.dir, newFile), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return notSent(err)
	}
	info, err := f.Stat()
	if err := errors.Join(err, json.NewEncoder(f).Encode(s), f.Sync()); err != nil {
		return notSent(errors.Join(err, f.Close()))
	}
	// From here on the outcome is known only if everything succeeds. Until the directory
	// is on the disk, a power failure may undo the rename.
	err = os.Rename(f.Name(), filepath.Join(b.dir, stateFile))
	if err == nil {
		err = syncDirectory(b.dir)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	b.cache.Lock()
	defer b.cache.Unlock()
	b.cache.put(f, info, s)
	return nil
}

func syncDirectory(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // G304: the directory is the choice of the user of the store
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// flock waits for the lock. No context can end the wait, so that callers must run in a
// goroutine of their own (see bounded).
func flock(f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
