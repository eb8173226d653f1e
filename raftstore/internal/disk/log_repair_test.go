package disk_test

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk/disktest"
)

// repaired does a step, repairing the log until it succeeds.
func (w *logWorld) repaired(step logStep) {
	w.t.Helper()
	for range 100 {
		err := step.do(w.log)
		if err == nil {
			step.want(&w.model)
			w.checkRepaired()
			return
		}
		require.False(w.t, isLoss(err) || errors.Is(err, disk.ErrInvalid), "%s: %s: %v", w.name, step.name, err)
		w.checkRepaired() // nothing of the step counts
		_ = w.log.Repair()
	}
	w.t.Fatalf("%s: %s never succeeded", w.name, step.name)
}

// checkRepaired checks the log. The reads may meet faults too.
func (w *logWorld) checkRepaired() {
	w.t.Helper()
	for range 4 {
		if w.model.mismatch(w.log) == "" {
			return
		}
		_ = w.log.Repair()
	}
	w.check()
}

// TestRepairAfterEachOperation lets each operation of the script fail once, and
// one of the repair after it. Then the machine loses power.
func TestRepairAfterEachOperation(t *testing.T) {
	for k := 1; ; k++ {
		w := newLogWorld(t, fmt.Sprintf("operation %d", k))
		record := w.files.Record()
		failed := w.files.Count()
		w.files.Fail(disktest.Nth(k, disktest.Any()), syscall.EIO)
		w.files.Fail(disktest.Nth(k+1+k%17, disktest.Any()), syscall.ENOSPC)
		for _, next := range script() {
			w.repaired(next(w.model))
			w.mark = w.log.End()
		}
		requireNoSecondSync(t, record(), k, w.name)
		if done := w.files.Count() - failed; done < k {
			require.NoError(t, w.log.Close())
			require.Greater(t, k, 200)
			return
		}
		w.restart(w.files.Crash(0), nil)
		require.NoError(t, w.log.Close())
	}
}

// requireNoSecondSync checks that a file whose Sync was the k-th operation, and
// failed, is not synced again, unless another file has its name then.
func requireNoSecondSync(t *testing.T, ops []disktest.Op, k int, name string) {
	t.Helper()
	if k > len(ops) || ops[k-1].Kind != disktest.Sync {
		return
	}
	for _, op := range ops[k:] {
		if op.Path == ops[k-1].Path && op.Kind == disktest.Create {
			return
		}
		require.False(t, op.Path == ops[k-1].Path && op.Kind == disktest.Sync, "%s: %s is synced again", name, op.Path)
	}
}

// TestFailedSyncIsNotTrusted lets a Sync fail, after which the system takes the
// pages for written.
func TestFailedSyncIsNotTrusted(t *testing.T) {
	f := disktest.New()
	l := openLog(t, f, disk.LogEnd{})
	require.NoError(t, l.Append(logEntries(1, 2, 1, 0)))
	f.Fail(disktest.Nth(1, disktest.Any(disktest.Sync)), syscall.EIO)
	batch := logEntries(3, 3, 1, 0)
	require.ErrorIs(t, l.Append(batch), syscall.EIO)
	requireLog(t, l, 1, 1, 1)
	require.ErrorIs(t, l.Append(batch), syscall.EIO, "not before a repair")
	require.ErrorIs(t, l.CutBack(1), syscall.EIO)
	require.ErrorIs(t, l.CutFront(1), syscall.EIO)
	require.NoError(t, l.Repair())
	require.NoError(t, l.Repair(), "there is nothing to repair")
	require.NoError(t, l.Append(batch))
	requireLog(t, openLog(t, f.Crash(0), l.End()), 1, 1, 1, 1)
}

// TestFailedSyncOfAnEarlierProcess kills the process after a Sync failed. The
// next one finds the records, and must not take them for durable.
func TestFailedSyncOfAnEarlierProcess(t *testing.T) {
	f := disktest.New()
	l := openLog(t, f, disk.LogEnd{})
	require.NoError(t, l.Append(logEntries(1, 2, 1, 0)))
	f.Fail(disktest.Nth(1, disktest.Any(disktest.Sync)), syscall.EIO)
	require.Error(t, l.Append(logEntries(3, 3, 1, 0)))
	f = f.Kill()
	l = openLog(t, f, disk.LogEnd{})
	last := l.Last()
	require.Equal(t, uint64(3), last)
	l = openLog(t, f.Crash(0), l.End())
	require.Equal(t, last, l.Last(), "the node may have voted with this log")
}

// TestFullDisk waits for room, as often as it takes.
func TestFullDisk(t *testing.T) {
	f := disktest.New()
	l := openLog(t, f, disk.LogEnd{})
	next := uint64(1)
	stop := f.Fail(disktest.Any(disktest.Create, disktest.Allocate, disktest.Write), syscall.ENOSPC)
	for range 50 {
		require.ErrorIs(t, l.Append(logEntries(next, next, 1, 300)), syscall.ENOSPC)
		require.ErrorIs(t, l.Repair(), syscall.ENOSPC)
	}
	stop()
	for range 50 {
		for l.Append(logEntries(next, next, 1, 300)) != nil {
			require.NoError(t, l.Repair())
		}
		stop = f.Fail(disktest.Any(disktest.Allocate), syscall.ENOSPC)
		if l.Append(logEntries(next+1, next+1, 1, 300)) == nil {
			next++
		}
		stop()
		next++
	}
	require.Equal(t, next-1, l.Last())
	require.Equal(t, l.Last(), openLog(t, f.Crash(0), l.End()).Last())
}

// TestFaultThatStays repairs a log again and again whose records cannot be
// written. No files pile up.
func TestFaultThatStays(t *testing.T) {
	f := disktest.New()
	l := openLog(t, f, disk.LogEnd{})
	require.NoError(t, l.Append(logEntries(1, 2, 1, 300)))
	stop := f.Fail(func(op disktest.Op) bool { return op.Kind == disktest.Write && op.Off > 0 }, syscall.EIO)
	for range 100 {
		require.ErrorIs(t, l.Append(logEntries(3, 3, 1, 0)), syscall.EIO)
		require.NoError(t, l.Repair())
	}
	require.LessOrEqual(t, len(segments(f)), 2)
	require.LessOrEqual(t, len(f.OpenFiles()), 2)
	require.Equal(t, uint64(1), l.End().Segment, "no mark names a segment without records")
	requireLog(t, openLog(t, f.Crash(0), l.End()), 1, 1, 1)
	stop()
	require.NoError(t, l.Append(logEntries(3, 3, 1, 0)))
	requireLog(t, openLog(t, f.Crash(0), l.End()), 1, 1, 1, 1)
}

// TestUnmountedDirectory shows an empty directory in the place of the log's.
func TestUnmountedDirectory(t *testing.T) {
	for _, dir := range []string{logDir, "/node"} {
		f := disktest.New()
		l := openLog(t, f, disk.LogEnd{})
		require.NoError(t, l.Append(logEntries(1, 2, 1, 300)))
		mount := f.Unmount(dir)
		var err error
		for i := uint64(3); err == nil; i++ {
			require.Less(t, i, uint64(10))
			err = l.Append(logEntries(i, i, 1, 300)) // the open file still takes some
		}
		last := l.Last()
		for range 10 {
			require.Error(t, l.Repair())
		}
		require.Empty(t, f.Paths())
		mount()
		require.NoError(t, l.Repair())
		require.Equal(t, last, l.Last())
		require.NoError(t, l.Append(logEntries(last+1, last+1, 1, 0)))
		require.Equal(t, last+1, openLog(t, f.Crash(0), l.End()).Last())
	}
}

// TestForeignDirectory checks that no segment is made where Owned says no.
func TestForeignDirectory(t *testing.T) {
	f := disktest.New()
	o := logOptions(f)
	var owned error
	o.Owned = func() error { return owned }
	l, _, err := disk.OpenLog(o)
	require.NoError(t, err)
	defer l.Close()
	require.NoError(t, l.Append(logEntries(1, 2, 1, 300)))
	owned = errors.New("another life")
	before := segments(f)
	require.ErrorIs(t, l.Append(logEntries(3, 3, 1, 900)), owned)
	require.ErrorIs(t, l.Repair(), owned)
	require.Equal(t, before, segments(f))
	owned = nil
	require.NoError(t, l.Repair())
	require.NoError(t, l.Append(logEntries(3, 3, 1, 900)))
}

func TestOwnedBy(t *testing.T) {
	f := disktest.New()
	require.NoError(t, f.MakeDir("/node"))
	owned := disk.OwnedBy(f, "/node", logLife)
	require.ErrorIs(t, owned(), fs.ErrNotExist)
	require.NoError(t, disk.WriteIdentity(f, "/node", disk.Identity{Life: logLife}))
	require.NoError(t, owned())
	require.NoError(t, disk.WriteIdentity(f, "/node", disk.Identity{Life: disk.Life{9}}))
	require.ErrorContains(t, owned(), "/node is of life 09")
}

// TestRepairFindsDamage damages durable data, while the log is open.
func TestRepairFindsDamage(t *testing.T) {
	for name, spoil := range map[string]func(f *disktest.FS, path string){
		"flip":   func(f *disktest.FS, path string) { f.Flip(path, 130*8) },
		"header": func(f *disktest.FS, path string) { f.Flip(path, 30*8) },
		"cut":    func(f *disktest.FS, path string) { f.Cut(path, 200) },
	} {
		f := disktest.New()
		l := openLog(t, f, disk.LogEnd{})
		require.NoError(t, l.Append(logEntries(1, 2, 1, 300)))
		f.Fail(disktest.Nth(1, disktest.Any(disktest.Sync)), syscall.EIO)
		require.Error(t, l.Append(logEntries(3, 3, 1, 0)))
		spoil(f, segments(f)[0])
		var damage *disk.DamageError
		require.ErrorAs(t, l.Repair(), &damage, name)
		require.ErrorAs(t, l.Repair(), &damage, "for good")
		require.ErrorAs(t, l.Append(logEntries(3, 3, 1, 0)), &damage)
	}
}

func TestUnreadableEntry(t *testing.T) {
	f := disktest.New()
	l := openLog(t, f, disk.LogEnd{})
	require.NoError(t, l.Append(logEntries(1, 2, 1, 0)))
	stop := f.Fail(disktest.Any(disktest.Read), syscall.EIO)
	require.ErrorIs(t, l.Get(1, &raft.Log{}), syscall.EIO)
	require.ErrorIs(t, l.Append(logEntries(3, 3, 1, 0)), syscall.EIO)
	require.ErrorIs(t, l.Repair(), syscall.EIO)
	stop()
	require.NoError(t, l.Repair())
	requireLog(t, l, 1, 1, 1)
}

// TestOpenAfterFaults lets each operation of a start fail once.
func TestOpenAfterFaults(t *testing.T) {
	for k := 1; ; k++ {
		c := newDamageCase(t)
		c.files.Flip(c.paths[1], (c.ends[3].Offset+40)*8) // a torn tail
		f := c.files
		o := logOptions(f)
		o.Mark = c.ends[3]
		stop := f.Fail(disktest.Nth(k, disktest.Any()), syscall.EIO)
		l, _, err := disk.OpenLog(o)
		stop()
		if err != nil {
			require.ErrorIs(t, err, syscall.EIO)
			require.Empty(t, f.OpenFiles(), "operation %d", k)
			l, _, err = disk.OpenLog(o)
		}
		require.NoError(t, err)
		require.NoError(t, l.Append(logEntries(7, 7, 9, 0)))
		require.NoError(t, l.Close())
		o.Files, o.Mark = f.Crash(0), l.End()
		l, _, err = disk.OpenLog(o)
		require.NoError(t, err, "operation %d", k)
		requireLog(t, l, 1, 1, 1, 2, 2, 2, 2, 9)
		require.NoError(t, l.Close())
		if k > 60 {
			return
		}
	}
}
