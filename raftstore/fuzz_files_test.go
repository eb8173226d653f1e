package raftstore

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk/disktest"
)

// storedNode returns the settings of a node and its stored files. They have snapshots, a
// log behind them, votes and marks.
func storedNode(t testing.TB) (Config, *disktest.FS) {
	c := clusterConfigs(t, 1)[0]
	c.Dir, c.SnapshotThreshold, c.SnapshotInterval = "/data", 10, 5*time.Millisecond
	files := disktest.New()
	b, err := newBackend(c, memoryHooks(files))
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for range 40 {
		_, err := b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", []byte("value"))}})
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { return b.Status().Disk.SnapshotBytes > 0 }, 10*time.Second, time.Millisecond)
	require.NoError(t, b.Close())
	return c, files
}

// startOn starts a node on files and reads from it, if it starts.
func startOn(t testing.TB, c Config, files *disktest.FS) error {
	c.Listen, c.Peers = "127.0.0.1:0", nil
	b, err := newBackend(c, memoryHooks(files))
	if err != nil {
		require.ErrorContains(t, err, "/data")
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	e, err := b.Get(ctx, "k")
	require.NoError(t, err)
	require.Equal(t, "value", string(e.Value), "a damaged value was read")
	require.NoError(t, b.Close())
	return nil
}

// FuzzStoredFiles changes the stored files of a node. The node starts with all
// acknowledged writes, or it does not start. It never panics.
func FuzzStoredFiles(f *testing.F) {
	c, original := storedNode(f)
	for file := range uint8(8) {
		f.Add(file, uint32(40), []byte{0xff}, false)
		f.Add(file, uint32(0), []byte{}, true)
		f.Add(file, uint32(1000), make([]byte, 600), false)
	}
	f.Fuzz(func(t *testing.T, file uint8, at uint32, patch []byte, cut bool) {
		t.Parallel()
		files := original.Kill()
		paths := slices.DeleteFunc(files.Paths(), func(p string) bool { return strings.HasSuffix(p, "/lock") })
		path := paths[int(file)%len(paths)]
		data := files.Data(path)
		if len(data) == 0 {
			return
		}
		// Most of a segment is unused room.
		offset := int(at) % min(len(data), 8<<10)
		if cut {
			data = data[:offset]
		} else {
			copy(data[offset:], patch)
		}
		files.Put(path, data)
		_ = startOn(t, c, files)
	})
}

// TestEachStoredFileIsMissing removes the stored files of a node, one at a time.
func TestEachStoredFileIsMissing(t *testing.T) {
	parallel(t)
	c, original := storedNode(t)
	require.NoError(t, startOn(t, c, original.Kill()))
	for _, path := range original.Paths() {
		files := original.Kill()
		files.Delete(path)
		err := startOn(t, c, files)
		switch {
		case strings.HasSuffix(path, "/lock"), strings.Contains(path, "/vote."), strings.Contains(path, "/mark."):
			require.NoError(t, err, "%s: there are two of them", path)
		case strings.Contains(path, "/snap/"), strings.Contains(path, "/seen"):
			// An older snapshot may be missing, if the log begins behind it.
		default:
			require.Error(t, err, path)
		}
	}
}
