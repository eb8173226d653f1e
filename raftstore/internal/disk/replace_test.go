package disk_test

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk/disktest"
)

var incB = disk.Incarnation{9, 9}

// scanFiles is the Scan of a node: it reads the log and the snapshots.
func scanFiles(f disk.FS) disk.Scan {
	return func(own disk.Identity, mark disk.Mark) (stored disk.Stored, err error) {
		if _, err := f.List(disk.SnapshotDir(dir)); err == nil {
			snaps, err := disk.OpenSnapshots(f, disk.SnapshotDir(dir), own.Incarnation)
			if err != nil {
				return stored, err
			}
			if list, _ := snaps.List(); len(list) > 0 {
				stored.Snapshot = list[0].Index
			}
		}
		log, err := disk.ScanLog(f, disk.LogDir(dir), own.Life, mark.Log, nil)
		if err != nil {
			return stored, err
		}
		stored.First, stored.Log = log.First, log.End
		return stored, nil
	}
}

// usedDir returns the directory of a node with seven entries in its log.
func usedDir(t *testing.T) *disktest.FS {
	f := disktest.New()
	require.NoError(t, f.MakeDir(dir))
	require.NoError(t, disk.Make(f, dir, founded()))
	marks, mark, err := disk.OpenMark(f, dir)
	require.NoError(t, err)
	l, _, err := disk.OpenLog(disk.LogOptions{
		Files: f, Dir: disk.LogDir(dir), Life: lifeA, SegmentBytes: 4096,
		SaveMark: func(end disk.LogEnd) error { mark.Log = end; return marks.Store(mark.Encode()) },
	})
	require.NoError(t, err)
	require.NoError(t, l.Append(logEntries(1, 7, 1, 100)))
	require.NoError(t, l.Close())
	require.NoError(t, marks.Close())
	return f
}

func beginning(content string) disk.Beginning {
	return disk.Beginning{
		Index: 1 << 40, Term: 4, Configuration: snapConfig(1), SegmentBytes: smallSize,
		Persist: func(sink raft.SnapshotSink) error {
			if _, err := sink.Write([]byte(content)); err != nil {
				return errors.Join(err, sink.Cancel())
			}
			return sink.Close()
		},
	}
}

// TestReplaceAtEachCrash loses power or is killed before each operation of a
// Replace, and starts again: the directory has the old data or the new ones. A
// second Replace, or the start itself, finishes the interrupted one.
func TestReplaceAtEachCrash(t *testing.T) {
	t.Parallel()
	next := disk.Identity{Owner: owner, Incarnation: incB, Life: lifeB, Former: []disk.Incarnation{inc}}
	for name, whole := range map[string]*disktest.FS{"used": usedDir(t), "empty": disktest.New()} {
		old := lifeA
		if name == "empty" {
			old = disk.Life{}
			require.NoError(t, whole.MakeDir(dir))
		}
		whole = whole.Crash(1)
		ops := 0
		for k, done := 1, false; !done; k++ {
			f := whole.Kill()
			f.HaltAt(changing(k))
			done = disk.Replace(f, dir, old, next, beginning("state")) == nil
			for i, f := range restarts(f, seedsOf(3, 8)) {
				state, err := disk.Open(f, dir, owner, scanFiles(f))
				require.NoError(t, err, "%s, operation %d, restart %d", name, k, i)
				if state.Identity.Life != lifeB {
					require.False(t, done)
					requireOld(t, name, state)
					require.NoError(t, disk.Replace(f, dir, state.Life(), next, beginning("state")))
				}
				requireNew(t, f.Crash(0), name)
			}
			ops = k
		}
		require.Greater(t, ops, 30)
	}
}

func requireOld(t *testing.T, name string, s disk.State) {
	t.Helper()
	if name == "empty" {
		require.Equal(t, disk.Fresh, s.Condition)
		return
	}
	require.Equal(t, disk.Complete, s.Condition)
	require.Equal(t, founded(), s.Identity)
	require.Equal(t, uint64(7), s.Stored.Log.Index)
}

func requireNew(t *testing.T, f *disktest.FS, name string) {
	t.Helper()
	s, err := disk.Open(f, dir, owner, scanFiles(f))
	require.NoError(t, err)
	require.Equal(t, disk.Complete, s.Condition)
	require.Equal(t, incB, s.Identity.Incarnation)
	require.Equal(t, lifeB, s.Mark.Life)
	require.Equal(t, uint64(4), s.Vote.Term)
	require.Equal(t, uint64(1<<40), s.Stored.Snapshot)
	require.Equal(t, disk.LogEnd{Position: s.Stored.Log.Position, Index: 1 << 40, Term: 4}, s.Stored.Log)
	require.Equal(t, s.Stored.Log, s.Mark.Log, "the mark does not know of the log")
	for _, path := range f.Paths() {
		require.NotContains(t, path, "/next-")
	}
	if name == "empty" {
		return
	}
	// The replaced files are complete.
	lost := disk.LostDir(dir, lifeA)
	log, err := disk.ScanLog(f, disk.LogDir(lost), lifeA, disk.LogEnd{}, nil)
	require.NoError(t, err)
	require.Equal(t, uint64(7), log.Last)
	data := string(f.Data(lost + "/identity.json"))
	require.Contains(t, data, lifeA.String())
	for _, name := range []string{"mark.a", "mark.b", "vote.a", "vote.b"} {
		require.NotEmpty(t, f.Data(lost+"/"+name))
	}
}

// After each error the same process may try again.
func TestReplaceAfterFaults(t *testing.T) {
	t.Parallel()
	next := disk.Identity{Owner: owner, Incarnation: incB, Life: lifeB}
	whole := usedDir(t)
	for k, done := 1, false; !done; k++ {
		f := whole.Kill()
		stop := f.Fail(changing(k), syscall.EIO)
		err := disk.Replace(f, dir, lifeA, next, beginning("state"))
		done = err == nil
		stop()
		if !done {
			require.ErrorIs(t, err, syscall.EIO)
			s, err := disk.Open(f, dir, owner, scanFiles(f))
			require.NoError(t, err, "operation %d", k)
			if s.Identity.Life != lifeB {
				require.NoError(t, disk.Replace(f, dir, lifeA, next, beginning("state")), "operation %d", k)
			}
		}
		requireNew(t, f.Crash(0), "used")
	}
}

// Data that no identity names are removed, unless the identity cannot be read.
func TestAbandonedStage(t *testing.T) {
	f := usedDir(t)
	stage := "/d/next-" + lifeB.String() + "-" + lifeA.String()
	require.NoError(t, f.MakeDir(stage+"/snap"))
	f.Put(stage+"/mark.a", []byte("x"))
	f.Flip("/d/identity.json", 40)
	ended, err := disk.EndReplace(f, dir)
	require.NoError(t, err)
	require.False(t, ended)
	require.NotEmpty(t, f.Data(stage+"/mark.a"))
	f.Flip("/d/identity.json", 40)
	s, err := disk.Open(f, dir, owner, scanFiles(f))
	require.NoError(t, err)
	requireOld(t, "used", s)
	names, err := f.List(dir)
	require.NoError(t, err)
	require.NotContains(t, strings.Join(names, " "), "next-")
}

// ReadLog returns the entries after a snapshot, and leaves all as it is.
func TestReadLog(t *testing.T) {
	f := usedDir(t)
	o := disk.LogOptions{Files: f, Dir: disk.LogDir(dir), Life: lifeA}
	read := func(index, term uint64) (got []uint64, err error) {
		_, err = disk.ReadLog(o, index, term, func(e *raft.Log) error {
			got = append(got, e.Index)
			return nil
		})
		return got, err
	}
	before := f.Count(disktest.Changes()...)
	for _, tc := range []struct {
		index, term uint64
		want        []uint64
	}{
		{0, 0, []uint64{1, 2, 3, 4, 5, 6, 7}},
		{4, 1, []uint64{5, 6, 7}},
		{7, 1, nil},
		{4, 2, nil}, // a snapshot of another term took the place of the log
		{9, 3, nil},
	} {
		got, err := read(tc.index, tc.term)
		require.NoError(t, err)
		require.Equal(t, tc.want, got, "behind %d", tc.index)
	}
	require.Equal(t, before, f.Count(disktest.Changes()...), "something was written")
	// Entries that were cut back are not read, and the front may be missing.
	l, _, err := disk.OpenLog(o)
	require.NoError(t, err)
	require.NoError(t, l.CutBack(6))
	require.NoError(t, l.Append(logEntries(6, 6, 2, 10)))
	require.NoError(t, l.Close())
	got, err := read(4, 1)
	require.NoError(t, err)
	require.Equal(t, []uint64{5, 6}, got)
	stopped := errors.New("stopped")
	_, err = disk.ReadLog(o, 0, 0, func(*raft.Log) error { return stopped })
	require.ErrorIs(t, err, stopped)
	l, _, err = disk.OpenLog(disk.LogOptions{Files: f, Dir: o.Dir, Life: lifeA, KeepEntries: 1, KeepBytes: 1})
	require.NoError(t, err)
	require.NoError(t, l.CutFront(3))
	require.NoError(t, l.Close())
	_, err = read(2, 1)
	var damage *disk.DamageError
	require.ErrorAs(t, err, &damage)
	_, err = disk.ReadLog(disk.LogOptions{Files: f, Dir: "/d/none", Life: lifeA}, 0, 0, nil)
	require.NoError(t, err)
}
