package raftstore

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk/disktest"
)

// A node whose disk refuses writes can be closed, and leaves no goroutine and no open
// file behind. Its writes are repeated until then.
func TestCloseWhileTheDiskFails(t *testing.T) {
	files := disktest.New()
	c := clusterConfigs(t, 1)[0]
	c.Dir = "/data"
	b, err := newBackend(c, memoryHooks(files))
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err = b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
	require.NoError(t, err)
	restore := files.Fail(disktest.Any(disktest.Write), syscall.ENOSPC)
	short, cancel := context.WithTimeout(ctx, 1500*time.Millisecond)
	defer cancel()
	_, err = b.Commit(short, dcs.Txn{Then: []dcs.Write{dcs.Put("k", []byte("later"))}})
	require.ErrorIs(t, err, dcs.ErrAmbiguous)
	require.Equal(t, Stalled, b.Status().Health.State)
	require.ErrorIs(t, b.Status().Disk.Fault, syscall.ENOSPC)

	begun := dcs.Now()
	_ = b.Close() // the mark cannot be written
	require.Less(t, begun.Elapsed(), shutdownBound)
	require.Empty(t, files.OpenFiles(), "files are left open")
	restore()
	b, err = newBackend(c, memoryHooks(files))
	require.NoError(t, err)
	defer b.Close()
	e, err := b.Get(ctx, "k")
	require.NoError(t, err)
	require.Contains(t, []string{"", "later"}, string(e.Value))
}
