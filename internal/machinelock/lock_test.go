//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package machinelock

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// acquire takes the lock in the background. flock excludes open files, not
// processes, so one process can play several.
func acquire(t *testing.T, lock func() (func(), error)) <-chan func() {
	t.Helper()
	got := make(chan func(), 1)
	go func() {
		unlock, err := lock()
		if err != nil {
			t.Error(err)
		}
		got <- unlock
	}()
	return got
}

func requireBlocked(t *testing.T, got <-chan func()) {
	t.Helper()
	select {
	case <-got:
		t.Fatal("the lock was granted while another holder had it")
	case <-time.After(100 * time.Millisecond):
	}
}

func requireGranted(t *testing.T, got <-chan func()) (unlock func()) {
	t.Helper()
	select {
	case unlock = <-got:
		return unlock
	case <-time.After(30 * time.Second):
		t.Fatal("the lock was not granted")
		return nil
	}
}

func TestExclusiveExcludesEveryOtherHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	exclusive := func() (func(), error) { return Lock(path) }
	first, err := exclusive()
	require.NoError(t, err)
	second := acquire(t, exclusive)
	requireBlocked(t, second)
	first()
	unlockSecond := requireGranted(t, second)
	third := acquire(t, func() (func(), error) { return RLock(path) })
	requireBlocked(t, third)
	unlockSecond()
	requireGranted(t, third)()
}

func TestSharedHoldersExcludeOnlyExclusiveOnes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := RLock(path)
	require.NoError(t, err)
	second, err := RLock(path)
	require.NoError(t, err)
	third := acquire(t, func() (func(), error) { return Lock(path) })
	requireBlocked(t, third)
	first()
	requireBlocked(t, third)
	second()
	requireGranted(t, third)()
}

func TestLockReportsAFileThatCannotBeOpened(t *testing.T) {
	_, err := Lock(filepath.Join(t.TempDir(), "missing", "lock"))
	require.ErrorContains(t, err, "machinelock: open")
}
