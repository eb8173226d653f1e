package raftstore

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk/disktest"
)

// backupOf makes a backup on a node and returns it.
func backupOf(t testing.TB, b *Backend) ([]byte, BackupInfo) {
	t.Helper()
	to := &bytes.Buffer{}
	info, err := b.Backup(testCtx(t), to)
	require.NoError(t, err)
	return to.Bytes(), info
}

// Every node makes a backup with all writes that were acknowledged before.
func TestBackupIsLinearizable(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t, 3, nil)
	tc.leader()
	for i := range 9 {
		rev, err := tc.node[i%3].Commit(testCtx(t), dcs.Txn{Then: []dcs.Write{dcs.Put("k", []byte{byte(i)})}})
		require.NoError(t, err)
		data, info := backupOf(t, tc.node[(i+1)%3])
		require.GreaterOrEqual(t, info.Revision, rev)
		verified, err := VerifyBackup(bytes.NewReader(data))
		require.NoError(t, err)
		require.Equal(t, 1, verified.Keys)
		verified.Keys = 0
		require.Equal(t, info, verified)
		_, f, _, err := readBackup(bytes.NewReader(data))
		require.NoError(t, err)
		e, _ := f.Tree().Get("k")
		require.Equal(t, []byte{byte(i)}, e.Value)
		if i%2 == 0 {
			again, then := backupOf(t, tc.node[(i+1)%3])
			require.Equal(t, info == then, bytes.Equal(data, again), "nothing has changed")
		}
	}
}

func TestBackupFails(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t, 3, func(_ int, c *Config, _ *hooks) {
		c.Timing = shortTiming
	})
	tc.leader()
	tc.commits(0, 3, "k")
	full := errors.New("no space")
	_, err := tc.node[0].Backup(testCtx(t), failingWriter{full})
	require.ErrorIs(t, err, full)
	require.ErrorIs(t, err, dcs.ErrUnavailable)
	ended, cancel := context.WithCancel(testCtx(t))
	cancel()
	_, err = tc.node[0].Backup(ended, io.Discard)
	require.ErrorIs(t, err, context.Canceled)
	last := tc.leader()
	for i := range tc.node {
		if i != last {
			tc.kill(i)
		}
	}
	begun := dcs.Now()
	to := &bytes.Buffer{}
	_, err = tc.node[last].Backup(testCtx(t), to)
	require.ErrorIs(t, err, dcs.ErrUnavailable, "no quorum confirms that the backup is the newest")
	require.Less(t, begun.Elapsed(), shortTiming.RetryTimeout+time.Second)
	require.Zero(t, to.Len())
	b := tc.node[last]
	tc.stop(last)
	_, err = b.Backup(testCtx(t), io.Discard)
	require.ErrorIs(t, err, dcs.ErrClosed)
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

// A cluster is lost, and begins again with a backup. It had continued after the backup.
// The new cluster reuses no revision and no token of that time.
func TestRestore(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t, 3, nil)
	const a, b, c = 0, 1, 2
	revs := tc.commits(b, 5, "k")
	old, token := leased(t, tc.node[a], "lock", 5*time.Second)
	data, info := backupOf(t, tc.node[c])
	lost := tc.commits(b, 30, "later")
	require.NoError(t, old.Revoke(testCtx(t)))
	_, newest := leased(t, tc.node[a], "lock", 5*time.Second)
	require.Greater(t, newest, token)
	tc.stopAll()
	kept := t.TempDir()
	copyDir(t, tc.config[b].Dir, kept)
	for i := range tc.node {
		tc.wipe(i)
	}
	report, err := Restore(testCtx(t), RestoreConfig{Node: tc.config[a]}, bytes.NewReader(data))
	require.NoError(t, err)
	require.Equal(t, info.Revision, report.Backup.Revision)
	require.Equal(t, []any{6, 1}, []any{report.Backup.Keys, report.Backup.Leases})
	require.Greater(t, report.FirstRevision, newest+revisionStep/2)
	begun := dcs.Now()
	tc.start(a)
	tc.leader()
	e, err := tc.node[a].Get(testCtx(t), "lock")
	require.NoError(t, err)
	require.Equal(t, token, e.Created)
	tc.holds(revs)
	for key := range lost {
		_, err := tc.node[a].Get(testCtx(t), key)
		require.ErrorIs(t, err, dcs.ErrNotFound)
	}
	// The lock of the backup has no holder, and ends within its TTL.
	_, err = (&leaseHandle{b: &tc.node[a].frontend, id: old.ID()}).Renew(testCtx(t), "lock")
	require.ErrorIs(t, err, dcs.ErrLost)
	var next dcs.Revision
	tc.eventually(func() bool {
		l, _, err := tc.node[a].Grant(testCtx(t), 5*time.Second)
		if err != nil {
			return false
		}
		next, err = tc.node[a].Commit(testCtx(t), dcs.Txn{If: []dcs.Cond{dcs.Absent("lock")}, Then: []dcs.Write{dcs.PutLeased("lock", nil, l.ID())}})
		return err == nil
	}, "the lock stays taken")
	require.Greater(t, begun.Elapsed(), 5*time.Second, "a holder may still have been valid")
	require.Greater(t, next, newest)

	tc.startAsVoter(b)
	tc.startAsVoter(c)
	more := tc.commits(c, 3, "more")
	tc.kill(a)
	tc.holds(more)
	tc.holds(revs)
	// A node of the old cluster detects that the cluster has ended.
	tc.start(a)
	tc.stop(b)
	copyDir(t, kept, tc.config[b].Dir)
	_, err = newBackend(tc.config[b], tc.hooks[b])
	require.ErrorContains(t, err, "has ended")
	require.ErrorContains(t, err, report.Incarnation)
}

// The same backup is restored twice. The second cluster does not use the revisions of
// the first.
func TestRestoreTwice(t *testing.T) {
	parallel(t)
	tc := newTestCluster(t, 1, nil)
	tc.commits(0, 3, "k")
	data, _ := backupOf(t, tc.node[0])
	tc.stopAll()
	highest := dcs.Revision(0)
	for range 3 {
		tc.wipe(0)
		report, err := Restore(testCtx(t), RestoreConfig{Node: tc.config[0]}, bytes.NewReader(data))
		require.NoError(t, err)
		require.Greater(t, report.FirstRevision, highest)
		tc.start(0)
		for _, rev := range tc.commits(0, 5, "again") {
			highest = max(highest, rev)
		}
		// A backup of a restored cluster names all former incarnations.
		head, _, _, err := readBackup(bytes.NewReader(func() []byte { data, _ := backupOf(t, tc.node[0]); return data }()))
		require.NoError(t, err)
		require.Len(t, head.Former, 1)
		tc.stopAll()
	}
}

// Restore writes only to an empty directory, and only a complete backup.
func TestRestoreRefuses(t *testing.T) {
	c, files := storedNode(t)
	b, err := newBackend(c, memoryHooks(files))
	require.NoError(t, err)
	data, _ := backupOf(t, b)
	require.NoError(t, b.Close())
	ctx := context.Background()
	used := contents(files)
	_, err = restoreOn(ctx, RestoreConfig{Node: c}, bytes.NewReader(data), memoryHooks(files))
	require.ErrorIs(t, err, dcs.ErrInvalid)
	require.ErrorContains(t, err, "is not empty")
	require.Equal(t, used, contents(files))

	empty := disktest.New()
	refused := func(rc RestoreConfig, data io.Reader, want string) {
		t.Helper()
		_, err := restoreOn(ctx, rc, data, memoryHooks(empty))
		require.ErrorIs(t, err, dcs.ErrInvalid)
		require.ErrorContains(t, err, want)
		require.NotContains(t, contents(empty), "/data/identity.json")
	}
	refused(RestoreConfig{Node: c}, bytes.NewReader(data[:len(data)-1]), "cut off")
	refused(RestoreConfig{Node: c}, bytes.NewReader(data[:20]), "cut off")
	refused(RestoreConfig{Node: c}, bytes.NewReader(nil), "cut off")
	broken := errors.New("the network is gone")
	_, err = restoreOn(ctx, RestoreConfig{Node: c}, iotest.ErrReader(broken), memoryHooks(empty))
	require.ErrorIs(t, err, broken)
	bad := bytes.Clone(data)
	bad[len(bad)/2] ^= 1
	refused(RestoreConfig{Node: c}, bytes.NewReader(bad), "is damaged at offset")
	refused(RestoreConfig{Node: c, MinRevision: math.MaxUint64}, bytes.NewReader(data), "revisions would begin")
	refused(RestoreConfig{}, bytes.NewReader(data), "ID is empty")
	ended, cancel := context.WithCancel(ctx)
	cancel()
	_, err = restoreOn(ended, RestoreConfig{Node: c}, bytes.NewReader(data), memoryHooks(empty))
	require.ErrorIs(t, err, context.Canceled)
	// A head that does not belong to the state.
	head, content, err := disk.NewBackupReader(bytes.NewReader(data))
	require.NoError(t, err)
	head.Index++
	to := &bytes.Buffer{}
	require.NoError(t, writeBackup(to, head, content))
	refused(RestoreConfig{Node: c}, to, "the head names entry")

	report, err := restoreOn(ctx, RestoreConfig{Node: c, MinRevision: 1 << 60}, bytes.NewReader(data), memoryHooks(empty))
	require.NoError(t, err)
	require.Equal(t, dcs.Revision(1<<60), report.FirstRevision)
	require.NoError(t, startOn(t, c, empty))
}

// TestRestoreAtEachCrash stops a restore before an operation. The directory is then
// empty or restored, and another call restores it or refuses.
func TestRestoreAtEachCrash(t *testing.T) {
	t.Parallel()
	c, files := storedNode(t)
	b, err := newBackend(c, memoryHooks(files))
	require.NoError(t, err)
	data, _ := backupOf(t, b)
	require.NoError(t, b.Close())
	step := 9
	if slowProfile() {
		step = 1
	}
	for k, done := 1, false; !done; k += step {
		f := disktest.New()
		f.HaltAt(disktest.Nth(k, disktest.Any(disktest.Changes()...)))
		_, err := restoreOn(context.Background(), RestoreConfig{Node: c}, bytes.NewReader(data), memoryHooks(f))
		done = err == nil
		f = f.Crash(uint64(k))
		_, err = restoreOn(context.Background(), RestoreConfig{Node: c}, bytes.NewReader(data), memoryHooks(f))
		if err != nil {
			require.ErrorContains(t, err, "is not empty", "operation %d", k)
		} else {
			require.False(t, done)
		}
		require.NoError(t, startOn(t, c, f), "operation %d", k)
	}
}
