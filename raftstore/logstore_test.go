package raftstore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
)

func openTestLog(t *testing.T) (*dataDir, *logStore) {
	t.Helper()
	d := mustOpenDir(t, dirConfig(t))
	t.Cleanup(func() { _ = d.close() })
	require.NoError(t, d.files.MakeDir(d.logDir()))
	s, err := openLogStore(d)
	require.NoError(t, err)
	return d, s
}

func TestLogStore(t *testing.T) {
	d, s := openTestLog(t)
	require.True(t, s.IsMonotonic())
	require.Zero(t, s.stats(), "opening is no write of the log")
	logs := []*raft.Log{{Index: 1, Term: 1, Data: []byte("one")}, {Index: 2, Term: 1, Data: []byte("two")}}
	require.NoError(t, s.StoreLogs(logs))
	require.NoError(t, s.StoreLog(&raft.Log{Index: 3, Term: 2, Data: []byte("three")}))
	require.NoError(t, s.DeleteRange(3, 3))
	stats := s.stats()
	require.Equal(t, uint64(3), stats.Writes)
	require.Positive(t, stats.Last)
	require.Positive(t, stats.Mean)
	require.GreaterOrEqual(t, stats.Max, stats.Last)
	require.Zero(t, stats.Pending)
	_, err := openLogStore(d)
	require.ErrorIs(t, err, errDirInUse, "no waiting for ever")
	require.NoError(t, s.Close())

	s, err = openLogStore(d)
	require.NoError(t, err)
	defer s.Close()
	first, err := s.FirstIndex()
	require.NoError(t, err)
	last, err := s.LastIndex()
	require.NoError(t, err)
	require.Equal(t, []uint64{1, 2}, []uint64{first, last})
	var got raft.Log
	require.NoError(t, s.GetLog(2, &got))
	require.Equal(t, "two", string(got.Data))
	require.Zero(t, s.stats().Writes, "reading is no write")
}

// TestTruncatedTailSurvivesRestarts does what a follower's log goes through
// when new leaders have other entries, again and again.
func TestTruncatedTailSurvivesRestarts(t *testing.T) {
	d, s := openTestLog(t)
	want := map[uint64]string{}
	store := func(from, to, term uint64) {
		var logs []*raft.Log
		for i := from; i <= to; i++ {
			want[i] = fmt.Sprintf("entry %d of term %d", i, term)
			logs = append(logs, &raft.Log{Index: i, Term: term, Data: []byte(want[i])})
		}
		require.NoError(t, s.StoreLogs(logs))
	}
	check := func(last uint64) {
		got, err := s.LastIndex()
		require.NoError(t, err)
		require.Equal(t, last, got)
		for i := uint64(1); i <= last; i++ {
			var l raft.Log
			require.NoError(t, s.GetLog(i, &l), "entry %d", i)
			require.Equal(t, want[i], string(l.Data))
		}
		require.Error(t, s.GetLog(last+1, &raft.Log{}))
	}
	restart := func() {
		require.NoError(t, s.Close())
		var err error
		s, err = openLogStore(d)
		require.NoError(t, err)
	}
	store(1, 10, 1)
	require.NoError(t, s.DeleteRange(8, 10))
	check(7)
	restart()
	check(7)
	store(8, 12, 2)
	check(12)
	restart()
	check(12)
	// Back over the seam between two segments, which deletes the newer one.
	require.NoError(t, s.DeleteRange(6, 12))
	restart()
	check(5)
	store(6, 6, 3)
	require.NoError(t, s.DeleteRange(1, 3)) // compacted after a snapshot
	restart()
	first, err := s.FirstIndex()
	require.NoError(t, err)
	require.Equal(t, uint64(4), first)
	var l raft.Log
	for i := uint64(4); i <= 6; i++ {
		require.NoError(t, s.GetLog(i, &l))
		require.Equal(t, want[i], string(l.Data))
	}
	require.NoError(t, s.Close())
}

// What was cut off after a snapshot is not there any more, at once and after a
// restart.
func TestCutOffEntriesAreGone(t *testing.T) {
	d, s := openTestLog(t)
	var logs []*raft.Log
	for i := range uint64(6) {
		logs = append(logs, &raft.Log{Index: i + 1, Term: 1, Data: []byte{byte(i)}})
	}
	require.ErrorIs(t, s.GetLog(1, &raft.Log{}), raft.ErrLogNotFound, "an empty log")
	require.NoError(t, s.StoreLogs(logs))
	require.NoError(t, s.DeleteRange(1, 3))
	check := func() {
		for i := range uint64(8) {
			var l raft.Log
			err := s.GetLog(i, &l)
			if i < 4 || i > 6 {
				require.ErrorIs(t, err, raft.ErrLogNotFound, "entry %d", i)
			} else {
				require.NoError(t, err, "entry %d", i)
			}
		}
	}
	check()
	require.NoError(t, s.Close())
	s, err := openLogStore(d)
	require.NoError(t, err)
	check()
	require.NoError(t, s.Close())
}

// slowLog takes its time for every write, or fails it.
type slowLog struct {
	durableLog
	takes time.Duration
	err   error
}

func (l *slowLog) StoreLogs([]*raft.Log) error {
	<-time.After(l.takes)
	return l.err
}

func TestLogStoreMeasures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := &slowLog{takes: time.Second}
		s := newLogStore(inner)
		require.NoError(t, s.StoreLogs(nil))
		require.Equal(t, DiskStatus{Writes: 1, Last: time.Second, Mean: time.Second, Max: time.Second}, s.stats())

		inner.takes, inner.err = 9*time.Second, errors.New("no space left on device")
		done := make(chan error, 2)
		for range 2 {
			go func() { done <- s.StoreLogs(nil) }()
			<-time.After(time.Second)
		}
		<-time.After(2 * time.Second)
		stats := s.stats()
		require.Equal(t, 4*time.Second, stats.Pending, "the oldest write under way")
		require.Equal(t, uint64(3), stats.Writes)
		require.Equal(t, time.Second, stats.Max, "only finished writes")
		require.ErrorIs(t, <-done, inner.err)
		require.ErrorIs(t, <-done, inner.err)
		stats = s.stats()
		require.Equal(t, 9*time.Second, stats.Max)
		require.Equal(t, 9*time.Second, stats.Last)
		require.Zero(t, stats.Pending)
		require.Greater(t, stats.Mean, time.Second)
		require.Less(t, stats.Mean, 9*time.Second)
	})
}

func TestLogThatCanNotBeOpened(t *testing.T) {
	meta := func(dir string) string { return filepath.Join(dir, "wal-meta.db") }
	for name, spoil := range map[string]func(t *testing.T, dir string){
		"garbage": func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(meta(dir), []byte(strings.Repeat("garbage", 10000)), 0o600))
		},
		"cut to a page": func(t *testing.T, dir string) { require.NoError(t, os.Truncate(meta(dir), 4096)) },
		"cut to two":    func(t *testing.T, dir string) { require.NoError(t, os.Truncate(meta(dir), 2*4096)) },
		"cut to a byte": func(t *testing.T, dir string) { require.NoError(t, os.Truncate(meta(dir), 1)) },
		"a directory": func(t *testing.T, dir string) {
			require.NoError(t, errors.Join(os.Remove(meta(dir)), os.Mkdir(meta(dir), 0o700)))
		},
		"foreign segment": func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "x.wal"), nil, 0o600))
		},
		"damaged in a truncated segment": func(t *testing.T, dir string) {
			damageFirst(t, dir, 40)
		},
		"segment of garbage": func(t *testing.T, dir string) {
			damageFirst(t, dir, 0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, s := openTestLog(t)
			require.NoError(t, s.StoreLogs([]*raft.Log{{Index: 1, Term: 1, Data: []byte("one")}, {Index: 2, Term: 1}}))
			if strings.Contains(name, "truncated") {
				require.NoError(t, s.DeleteRange(2, 2))
			}
			require.NoError(t, s.Close())
			spoil(t, d.logDir())
			_, err := openLogStore(d)
			var damage *disk.DamageError
			require.ErrorAs(t, err, &damage)
			require.Equal(t, d.logDir(), damage.File)
			_, err = openLogStore(d)
			require.Error(t, err, "the second time too")
		})
	}
}

// damageFirst overwrites some of the oldest segment.
func damageFirst(t *testing.T, dir string, at int64) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	f, err := os.OpenFile(files[0], os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte(strings.Repeat("\xde\xad", 4)), at)
	require.NoError(t, errors.Join(err, f.Close()))
}

func TestUnreadableLog(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root reads everything")
	}
	d, s := openTestLog(t)
	require.NoError(t, s.Close())
	require.NoError(t, os.Chmod(filepath.Join(d.logDir(), "wal-meta.db"), 0))
	_, err := openLogStore(d)
	require.ErrorIs(t, err, os.ErrPermission)
	require.ErrorContains(t, err, "readable and writable by this user")
}
