package disk_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/internal/bubble"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk/disktest"
)

const (
	logDir    = "/node/log"
	smallSize = 1024 // of a segment
)

var logLife = [8]byte{1, 2, 3, 4, 5, 6, 7, 8}

func logOptions(f disk.FS) disk.LogOptions {
	return disk.LogOptions{Files: f, Dir: logDir, Life: logLife, SegmentBytes: smallSize}
}

// openLog opens a log whose mark is mark, and closes it at the end of the test.
func openLog(t testing.TB, f disk.FS, mark disk.LogEnd) *disk.Log {
	t.Helper()
	o := logOptions(f)
	o.Mark = mark
	l, _, err := disk.OpenLog(o)
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// entry returns an entry whose data identify it.
func entry(index, term uint64, size int) *raft.Log {
	data := []byte(fmt.Sprintf("entry %d of term %d", index, term))
	return &raft.Log{Index: index, Term: term, Data: append(data, make([]byte, max(0, size-len(data)))...)}
}

func logEntries(from, to, term uint64, size int) []*raft.Log {
	var list []*raft.Log
	for i := from; i <= to; i++ {
		list = append(list, entry(i, term, size))
	}
	return list
}

// text returns the text that entry has put into the data of e.
func text(e *raft.Log) string { return string(bytes.TrimRight(e.Data, "\x00")) }

// requireLog checks that the log holds the entries from first on with these
// terms, and no other.
func requireLog(t *testing.T, l *disk.Log, first uint64, terms ...uint64) {
	t.Helper()
	last := first + uint64(len(terms)) - 1
	require.Equal(t, []uint64{first, last}, []uint64{l.First(), l.Last()})
	for i, term := range terms {
		var e raft.Log
		index := first + uint64(i)
		require.NoError(t, l.Get(index, &e))
		require.Equal(t, fmt.Sprintf("entry %d of term %d", index, term), text(&e))
		require.Equal(t, []uint64{index, term}, []uint64{e.Index, e.Term})
	}
	require.Equal(t, raft.ErrLogNotFound, l.Get(first-1, &raft.Log{}), "Raft compares the error itself")
	require.Equal(t, raft.ErrLogNotFound, l.Get(last+1, &raft.Log{}))
}

func segments(f *disktest.FS) []string {
	return slices.DeleteFunc(f.Paths(), func(path string) bool { return filepath.Dir(path) != logDir })
}

func TestLogKeepsEntries(t *testing.T) {
	f := disktest.New()
	l := openLog(t, f, disk.LogEnd{})
	require.Zero(t, l.First())
	require.Zero(t, l.Last())
	require.Equal(t, raft.ErrLogNotFound, l.Get(1, &raft.Log{}))
	whole := &raft.Log{
		Index: 1, Term: 2, Type: raft.LogConfiguration, Data: []byte("data"), Extensions: []byte("more"),
		AppendedAt: time.Unix(1700000000, 123456789),
	}
	require.NoError(t, l.Append([]*raft.Log{whole}))
	require.NoError(t, l.Append(logEntries(2, 3, 2, 0)))
	require.NoError(t, l.Append([]*raft.Log{{Index: 4, Term: 3, Type: raft.LogNoop}}))
	require.NoError(t, l.Append(nil))
	require.NoError(t, l.Close())
	require.NoError(t, l.Close(), "twice")
	require.ErrorIs(t, l.Append(logEntries(5, 5, 3, 0)), disk.ErrClosed)
	require.ErrorIs(t, l.Get(1, &raft.Log{}), disk.ErrClosed)
	require.ErrorIs(t, l.Repair(), disk.ErrClosed)
	require.Empty(t, f.OpenFiles())

	f = f.Crash(0)
	l = openLog(t, f, l.End())
	var got raft.Log
	require.NoError(t, l.Get(1, &got))
	require.True(t, whole.AppendedAt.Equal(got.AppendedAt))
	got.AppendedAt = whole.AppendedAt
	require.Equal(t, *whole, got)
	require.NoError(t, l.Get(4, &got))
	require.Equal(t, raft.Log{Index: 4, Term: 3, Type: raft.LogNoop}, got)
	require.Equal(t, disk.LogEnd{Position: l.End().Position, Index: 4, Term: 3}, l.End())
}

func TestLogRefusesMisuse(t *testing.T) {
	f := disktest.New()
	l := openLog(t, f, disk.LogEnd{})
	require.NoError(t, l.Append(logEntries(1, 5, 1, 0)))
	big := entry(6, 1, 2<<20)
	f.Fail(disktest.Any(disktest.Changes()...), syscall.EIO)
	for name, err := range map[string]error{
		"a gap":                  l.Append(logEntries(7, 7, 1, 0)),
		"an entry twice":         l.Append(logEntries(5, 5, 1, 0)),
		"a gap within":           l.Append([]*raft.Log{entry(6, 1, 0), entry(8, 1, 0)}),
		"too large":              l.Append([]*raft.Log{big}),
		"a cut beyond the end":   l.CutFront(6),
		"a cut before the front": l.CutBack(0),
	} {
		require.ErrorIs(t, err, disk.ErrInvalid, name)
	}
	require.NoError(t, l.CutBack(6), "there is nothing to cut")
	require.NoError(t, l.CutFront(0))
	requireLog(t, l, 1, 1, 1, 1, 1, 1)
	empty := openLog(t, disktest.New(), disk.LogEnd{})
	require.ErrorIs(t, empty.Append(logEntries(0, 1, 1, 0)), disk.ErrInvalid)
}

// TestCutEntriesStayAway cuts back and appends others, over segments and
// restarts.
func TestCutEntriesStayAway(t *testing.T) {
	f := disktest.New()
	l := openLog(t, f, disk.LogEnd{})
	restart := func() {
		require.NoError(t, l.Close())
		f = f.Crash(0)
		l = openLog(t, f, l.End())
	}
	for i := uint64(1); i <= 12; i++ {
		require.NoError(t, l.Append([]*raft.Log{entry(i, 1, 200)}))
	}
	require.Greater(t, len(segments(f)), 3)
	require.NoError(t, l.CutBack(6))
	requireLog(t, l, 1, 1, 1, 1, 1, 1)
	restart()
	requireLog(t, l, 1, 1, 1, 1, 1, 1)
	require.NoError(t, l.Append(logEntries(6, 9, 2, 300)))
	require.NoError(t, l.CutBack(8))
	require.NoError(t, l.Append(logEntries(8, 8, 3, 0)))
	restart()
	requireLog(t, l, 1, 1, 1, 1, 1, 1, 2, 2, 3)
	require.NoError(t, l.CutBack(1))
	require.Zero(t, l.Last())
	restart()
	require.Zero(t, l.First())
	require.NoError(t, l.Append(logEntries(1, 1, 4, 0)))
	restart()
	requireLog(t, l, 1, 4)
}

func TestFrontIsCut(t *testing.T) {
	f := disktest.New()
	o := logOptions(f)
	o.KeepEntries, o.KeepBytes = 4, 1<<20
	l, _, err := disk.OpenLog(o)
	require.NoError(t, err)
	for i := uint64(1); i <= 12; i++ {
		require.NoError(t, l.Append([]*raft.Log{entry(i, 1, 200)}))
	}
	before, room := len(segments(f)), l.Bytes()
	require.NoError(t, l.CutFront(11))
	requireLog(t, l, 9, 1, 1, 1, 1)
	require.Less(t, len(segments(f)), before)
	require.Less(t, l.Bytes(), room)
	require.NoError(t, l.CutFront(8), "there is nothing to cut")
	require.NoError(t, l.Close())

	o.Mark, o.KeepEntries, o.KeepBytes = l.End(), 100, 600
	l, _, err = disk.OpenLog(o)
	require.NoError(t, err)
	requireLog(t, l, 9, 1, 1, 1, 1)
	require.NoError(t, l.CutFront(11))
	requireLog(t, l, 11, 1, 1)
	require.NoError(t, l.CutFront(12), "all go, as after a snapshot of the leader")
	require.Zero(t, l.Last())
	require.Equal(t, uint64(12), l.End().Index)
	require.NoError(t, l.Append(logEntries(40, 41, 2, 0)))
	requireLog(t, l, 40, 2, 2)
	require.NoError(t, l.Close())
	f = f.Crash(0)
	l = openLog(t, f, l.End())
	requireLog(t, l, 40, 2, 2)
}

// TestRoomIsBounded appends without an end, as a node does that takes snapshots.
func TestRoomIsBounded(t *testing.T) {
	f := disktest.New()
	o := logOptions(f)
	o.KeepEntries, o.KeepBytes = 1<<20, 2000
	l, _, err := disk.OpenLog(o)
	require.NoError(t, err)
	defer l.Close()
	for i := uint64(1); i < 300; i += 3 {
		require.NoError(t, l.Append(logEntries(i, i+2, 1, int(i%5)*150)))
		if i%10 == 0 {
			require.NoError(t, l.CutFront(i+1))
			kept, since, segment := int64(2000), int64(10*700), int64(smallSize+3*700)
			require.LessOrEqual(t, l.Bytes(), kept+since+2*segment)
			require.LessOrEqual(t, len(f.OpenFiles()), len(segments(f)))
		}
	}
	require.Positive(t, l.Written())
}

// TestSegmentsThatStay lets the removal of segments fail.
func TestSegmentsThatStay(t *testing.T) {
	f := disktest.New()
	o := logOptions(f)
	o.KeepEntries = 1
	l, _, err := disk.OpenLog(o)
	require.NoError(t, err)
	for i := uint64(1); i <= 12; i++ {
		require.NoError(t, l.Append([]*raft.Log{entry(i, 1, 200)}))
	}
	before := segments(f)
	stop := f.Fail(disktest.Any(disktest.Remove), syscall.EIO)
	require.NoError(t, l.CutFront(6))
	require.Equal(t, before, segments(f))
	requireLog(t, l, 7, 1, 1, 1, 1, 1, 1)
	stop()
	killed := f.Kill()
	require.NoError(t, l.CutFront(6))
	require.Less(t, len(segments(f)), len(before))
	require.NoError(t, l.Close())

	o.Files, o.Mark = killed, l.End()
	l, _, err = disk.OpenLog(o)
	require.NoError(t, err)
	defer l.Close()
	require.Equal(t, segments(f), segments(killed), "removed at the next start")
	requireLog(t, l, 7, 1, 1, 1, 1, 1, 1)
}

func TestLargeBatches(t *testing.T) {
	f := disktest.New()
	l := openLog(t, f, disk.LogEnd{})
	require.NoError(t, l.Append(logEntries(1, 40, 1, 100<<10)), "more than a segment and than one write")
	require.NoError(t, l.Append(logEntries(41, 41, 1, 0)))
	f = f.Crash(0)
	l = openLog(t, f, l.End())
	require.Equal(t, uint64(41), l.Last())
	for i := uint64(1); i <= 41; i++ {
		var e raft.Log
		require.NoError(t, l.Get(i, &e))
		require.Equal(t, text(entry(i, 1, 0)), text(&e))
	}
}

func TestJoinSnapshot(t *testing.T) {
	build := func() *disk.Log {
		l := openLog(t, disktest.New(), disk.LogEnd{})
		require.NoError(t, l.CutAll(10, 1))
		require.NoError(t, l.Append(logEntries(11, 20, 2, 0)))
		return l
	}
	l := build()
	var damage *disk.DamageError
	require.ErrorAs(t, l.Join(9, 1), &damage)
	require.ErrorContains(t, damage, "the entries from 10 to 10 are missing")
	for _, snapshot := range [][2]uint64{{10, 1}, {11, 2}, {20, 2}} {
		l = build()
		require.NoError(t, l.Join(snapshot[0], snapshot[1]))
		require.Equal(t, []uint64{11, 20}, []uint64{l.First(), l.Last()})
	}
	for _, snapshot := range [][2]uint64{{21, 2}, {15, 3}} {
		l = build()
		require.NoError(t, l.Join(snapshot[0], snapshot[1]), "the cut after an installation was missing")
		require.Zero(t, l.Last())
		require.Equal(t, snapshot[0], l.End().Index)
		require.NoError(t, l.Append(logEntries(snapshot[0]+1, snapshot[0]+1, 3, 0)))
	}
	require.NoError(t, openLog(t, disktest.New(), disk.LogEnd{}).Join(0, 0))
}

func TestEntriesAreChecked(t *testing.T) {
	f := disktest.New()
	l := openLog(t, f, disk.LogEnd{})
	require.NoError(t, l.Append(logEntries(1, 3, 1, 0)))
	require.NoError(t, l.Close())
	o := logOptions(f)
	var seen []uint64
	o.Check = func(e *raft.Log) error {
		seen = append(seen, e.Index)
		if e.Index == 3 {
			return errors.New("no configuration")
		}
		return nil
	}
	_, _, err := disk.OpenLog(o)
	var damage *disk.DamageError
	require.ErrorAs(t, err, &damage)
	require.Contains(t, damage.What, "no configuration")
	require.Equal(t, []uint64{1, 2, 3}, seen)
	require.Empty(t, f.OpenFiles())
}

// TestMarkFollows checks when the mark is saved: not ahead of the log, soon
// after it, and again after an error.
func TestMarkFollows(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		f := disktest.New()
		o := logOptions(f)
		var mu sync.Mutex
		var saved []disk.LogEnd
		var fail error
		o.SaveMark = func(end disk.LogEnd) error {
			mu.Lock()
			defer mu.Unlock()
			if fail != nil {
				return fail
			}
			saved = append(saved, end)
			return nil
		}
		last := func() disk.LogEnd {
			mu.Lock()
			defer mu.Unlock()
			return saved[len(saved)-1]
		}
		count := func() int {
			mu.Lock()
			defer mu.Unlock()
			return len(saved)
		}
		l, _, err := disk.OpenLog(o)
		require.NoError(t, err)
		require.Equal(t, []disk.LogEnd{{}}, saved, "after the log was opened")
		require.NoError(t, l.Append(logEntries(1, 1, 1, 0)))
		first := l.End()
		time.Sleep(60 * time.Millisecond)
		require.NoError(t, l.Append(logEntries(2, 2, 1, 0)))
		require.Equal(t, 1, count())
		time.Sleep(40*time.Millisecond + time.Microsecond)
		require.Equal(t, l.End(), last(), "100 ms after the first change, with all that came since")
		require.NotEqual(t, first, last())
		require.Equal(t, 2, count())
		time.Sleep(time.Hour)
		require.Equal(t, 2, count(), "nothing changed")

		require.NoError(t, l.Append(logEntries(3, 9, 1, 200)), "this makes a segment")
		synctest.Wait()
		require.Equal(t, l.End(), last(), "at once")

		mu.Lock()
		fail = syscall.EIO
		mu.Unlock()
		require.NoError(t, l.Append(logEntries(10, 10, 1, 0)))
		time.Sleep(time.Minute)
		mu.Lock()
		fail = nil
		mu.Unlock()
		time.Sleep(2 * time.Second)
		require.Equal(t, l.End(), last(), "tried again")

		require.NoError(t, l.Append(logEntries(11, 11, 1, 0)))
		require.NoError(t, l.Close())
		require.Equal(t, l.End(), last(), "at the end")

		o.SaveMark = func(disk.LogEnd) error { return syscall.EROFS }
		_, _, err = disk.OpenLog(o)
		require.ErrorIs(t, err, syscall.EROFS)
		require.Empty(t, f.OpenFiles())
	})
}

// TestReadsWhileTheLogChanges reads entries while others are appended and cut.
func TestReadsWhileTheLogChanges(t *testing.T) {
	f := disktest.New()
	o := logOptions(f)
	o.KeepEntries = 5
	l, _, err := disk.OpenLog(o)
	require.NoError(t, err)
	defer l.Close()
	stop := make(chan struct{})
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				for i := l.First(); i <= l.Last(); i++ {
					var e raft.Log
					err := l.Get(i, &e)
					if err != nil && err != raft.ErrLogNotFound && !errors.Is(err, fs.ErrClosed) {
						t.Errorf("entry %d: %v", i, err)
					}
					if err == nil && e.Index != i {
						t.Errorf("entry %d for %d", e.Index, i)
					}
				}
			}
		})
	}
	next := uint64(1)
	for i := range 200 {
		require.NoError(t, l.Append(logEntries(next, next+3, uint64(i), 100)))
		next += 4
		switch i % 4 {
		case 1:
			require.NoError(t, l.CutFront(next-2))
		case 2:
			require.NoError(t, l.CutBack(next-2))
			next -= 2
		case 3:
			stop := f.Fail(disktest.Nth(1, disktest.Any(disktest.Sync)), syscall.EIO)
			require.Error(t, l.Append(logEntries(next, next, uint64(i), 0)))
			stop()
			require.NoError(t, l.Repair())
		}
	}
	close(stop)
	all.Wait()
}
