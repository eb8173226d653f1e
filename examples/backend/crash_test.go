//go:build linux

package filestore

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// A process that ended in the middle of a write leaves half a new file behind. It has no
// effect on the state, and the next write takes its place.
func TestHalfAWriteHasNoEffect(t *testing.T) {
	dir := directory(t)
	b, err := New(Config{Dir: dir})
	require.NoError(t, err)
	defer b.Close()
	write := func(value string) {
		_, err := b.Commit(t.Context(), dcs.Txn{Then: []dcs.Write{dcs.Put("k", []byte(value))}})
		require.NoError(t, err)
	}
	write("one")
	require.NoError(t, os.WriteFile(filepath.Join(dir, newFile), []byte(`{"Revi`), 0o600))
	e, err := b.Get(t.Context(), "k")
	require.NoError(t, err)
	require.Equal(t, "one", string(e.Value))
	write("two")
	e, err = b.Get(t.Context(), "k")
	require.NoError(t, err)
	require.Equal(t, "two", string(e.Value))
}

// A state that cannot be read is no empty store. A client that took it for one would give
// every lock away.
func TestDamagedStateIsNotEmpty(t *testing.T) {
	dir := directory(t)
	require.NoError(t, os.WriteFile(filepath.Join(dir, stateFile), []byte(`{"Revision":7,`), 0o600))
	b, err := New(Config{Dir: dir})
	require.NoError(t, err)
	s, err := dcs.New(b, dcs.Options{Timing: dcs.Timing{TTL: 2 * time.Second, RetryTimeout: 300 * time.Millisecond}})
	require.NoError(t, err)
	defer s.Close()
	_, err = s.Get(t.Context(), "k")
	require.ErrorIs(t, err, dcs.ErrUnavailable)
	_, err = s.Commit(t.Context(), dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
	require.ErrorIs(t, err, dcs.ErrUnavailable)
	require.NotErrorIs(t, err, dcs.ErrAmbiguous, "nothing was written")
}

// A read may take longer than the first of the reads that a Wait may make, because a tree may
// be large and a machine busy. That is no silence.
func TestSlowReadIsNoSilence(t *testing.T) {
	timing := dcs.Timing{TTL: 10 * time.Second, LoopWait: 500 * time.Millisecond, RetryTimeout: 4 * time.Second}
	b, err := newStore(Config{Dir: directory(t), Timing: timing}, hooks{exchange: func(ctx context.Context, r request, send func(context.Context) error) error {
		if r.op == "Wait" || r.op == "Probe" {
			select {
			case <-time.After(timing.RetryTimeout * 3 / 8):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return send(ctx)
	}})
	require.NoError(t, err)
	defer b.Close()
	_, err = b.Wait(t.Context(), "", 0)
	require.NoError(t, err)
}
