package etcd3

import (
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// withPassword returns a fake etcd and a client whose password is in a file.
func withPassword(t *testing.T) (f *fakeAuth, store *dcs.Store, file string) {
	f = &fakeAuth{fakeStore: newFakeStore(), password: "one"}
	file = filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(file, []byte("one\n"), 0o600))
	_, store = f.openAs(t, Config{Username: "u", PasswordFile: file})
	_, err := store.Snapshot(t.Context(), "")
	require.NoError(t, err)
	return f, store, file
}

// change gives the user of the fake etcd another password and invalidates all tokens.
func (f *fakeAuth) change(password string) {
	f.set(func() { f.password, f.valid = password, "" })
}

// No call fails while a password changes in etcd and in the file, in either order.
func TestPasswordRotationCostsNoCall(t *testing.T) {
	f, store, file := withPassword(t)
	var calls sync.WaitGroup
	var over atomic.Bool
	calls.Go(func() {
		for !over.Load() {
			if _, err := store.Get(t.Context(), "k"); dcs.KindOf(err) != dcs.ErrNotFound {
				t.Error(err)
				return
			}
		}
	})
	answered := func() {
		t.Helper()
		_, err := store.Get(t.Context(), "k")
		require.ErrorIs(t, err, dcs.ErrNotFound)
	}
	answered()
	f.change("two")
	before := f.logins.Load()
	require.Eventually(t, func() bool { return f.logins.Load() > before+2 }, 5*time.Second, time.Millisecond, "the login is repeated")
	require.NoError(t, os.WriteFile(file, []byte("two\n"), 0o600))
	answered()

	require.NoError(t, os.WriteFile(file, []byte("three\n"), 0o600))
	f.expire()
	answered()
	f.change("three")
	answered()
	over.Store(true)
	calls.Wait()
}

// A password that was never accepted is refused at once. One that was accepted before is
// refused after RetryTimeout.
func TestWrongPasswordIsRefused(t *testing.T) {
	t.Parallel()
	f := &fakeAuth{fakeStore: newFakeStore(), password: "one"}
	file := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(file, []byte("wrong\n"), 0o600))
	_, store := f.openAs(t, Config{Username: "u", PasswordFile: file})
	_, err := store.Get(within(t, prompt), "k")
	require.ErrorIs(t, err, dcs.ErrUnauthorized)
	require.NotContains(t, err.Error(), "wrong")

	f, store, _ = withPassword(t)
	f.change("two")
	_, err = store.Get(t.Context(), "k")
	require.ErrorIs(t, err, dcs.ErrUnauthorized)
	require.ErrorContains(t, err, "password file")
	require.Eventually(t, func() bool {
		_, err := store.Get(within(t, prompt), "k")
		return dcs.KindOf(err) == dcs.ErrUnauthorized
	}, 5*time.Second, time.Millisecond)
}
