package disk_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk/disktest"
)

const snapDir = "/data/snap"

var snapOf = disk.Incarnation{1, 2, 3}

// chunkSize is the most that one chunk of a snapshot holds.
const chunkSize = 256 << 10

func openSnapshots(t testing.TB, files disk.FS) *disk.Snapshots {
	t.Helper()
	s, err := disk.OpenSnapshots(files, snapDir, snapOf)
	require.NoError(t, err)
	return s
}

// snapConfig is the configuration that the snapshot at index has.
func snapConfig(index uint64) raft.Configuration {
	return raft.Configuration{Servers: []raft.Server{
		{ID: "a#0011223344556677", Address: "10.0.0.1:7001"},
		{Suffrage: raft.Nonvoter, ID: "b", Address: raft.ServerAddress(fmt.Sprint("10.0.0.2:", index))},
	}}
}

func snapContent(index uint64, size int) []byte {
	key := [2]uint64{index, uint64(size)}
	if made, ok := snapContents.Load(key); ok {
		return made.([]byte)
	}
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(uint64(i)*7 + uint64(i)>>13 + index)
	}
	snapContents.Store(key, b)
	return b
}

// snapContents has the results of snapContent, which callers must not change. To make one
// takes milliseconds with the race detector.
var snapContents sync.Map

// begin begins the snapshot at an index and writes its content.
func begin(s *disk.Snapshots, index uint64, content []byte) (raft.SnapshotSink, error) {
	k, err := s.Create(raft.SnapshotVersionMax, index, index/10, snapConfig(index), index-1, nil)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(k, iotestHalf{bytes.NewReader(content)}); err != nil {
		return nil, errors.Join(err, k.Cancel())
	}
	return k, nil
}

// iotestHalf returns at most 1000 bytes at a time.
type iotestHalf struct{ io.Reader }

func (r iotestHalf) Read(p []byte) (int, error) { return r.Reader.Read(p[:min(len(p), 1000)]) }

func take(s *disk.Snapshots, index uint64, content []byte) error {
	k, err := begin(s, index, content)
	if err != nil {
		return err
	}
	return k.Close()
}

// snapPath returns the path of the snapshot at an index.
func snapPath(index uint64) string {
	return filepath.Join(snapDir, fmt.Sprintf("%016x-%016x.snap", index, index/10))
}

// read returns the content of a snapshot.
func read(s *disk.Snapshots, id string) ([]byte, error) {
	_, r, err := s.Open(id)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(r)
	return b, errors.Join(err, r.Close())
}

// indexes returns the indexes of the listed snapshots, and checks that they are
// the output of take.
func indexes(t testing.TB, s *disk.Snapshots, size int) (out []uint64) {
	t.Helper()
	list, err := s.List()
	require.NoError(t, err)
	for _, m := range list {
		out = append(out, m.Index)
		want := raft.SnapshotMeta{
			Version: raft.SnapshotVersionMax, ID: fmt.Sprintf("%016x-%016x", m.Index, m.Index/10), Index: m.Index, Term: m.Index / 10,
			Configuration: snapConfig(m.Index), ConfigurationIndex: m.Index - 1, Size: int64(size),
		}
		require.Equal(t, want, *m)
		opened, r, err := s.Open(m.ID)
		require.NoError(t, err)
		require.NoError(t, r.Close())
		require.Equal(t, want, *opened)
		b, err := read(s, m.ID)
		require.NoError(t, err)
		require.True(t, bytes.Equal(snapContent(m.Index, size), b))
	}
	return out
}

func TestSnapshotsAreKept(t *testing.T) {
	for _, size := range []int{0, 1, chunkSize - 1, chunkSize, chunkSize + 1, 3 * chunkSize} {
		files := disktest.New()
		s := openSnapshots(t, files)
		require.Empty(t, indexes(t, s, size))
		for i, want := range [][]uint64{{10}, {20, 10}, {30, 20}, {40, 30}} {
			require.NoError(t, take(s, uint64(i+1)*10, snapContent(uint64(i+1)*10, size)))
			require.Equal(t, want, indexes(t, s, size))
		}
		require.Equal(t, []string{snapPath(30), snapPath(40)}, files.Paths())
		require.EqualValues(t, len(files.Data(snapPath(30)))+len(files.Data(snapPath(40))), s.Bytes())
		require.Empty(t, files.OpenFiles())
		s = openSnapshots(t, files.Crash(0))
		require.Equal(t, []uint64{40, 30}, indexes(t, s, size))
		require.EqualValues(t, len(files.Data(snapPath(30)))+len(files.Data(snapPath(40))), s.Bytes())
	}
}

// An older snapshot that another node sent is kept for as long as it is the
// newest that was made.
func TestOlderSnapshotStaysUntilTheNext(t *testing.T) {
	s := openSnapshots(t, disktest.New())
	for _, index := range []uint64{30, 40, 10} {
		require.NoError(t, take(s, index, snapContent(index, 9)))
	}
	require.Equal(t, []uint64{40, 30, 10}, indexes(t, s, 9))
	require.NoError(t, take(s, 50, snapContent(50, 9)))
	require.Equal(t, []uint64{50, 40}, indexes(t, s, 9))
	require.NoError(t, take(s, 50, snapContent(50, 9)), "the same one again")
	require.Equal(t, []uint64{50, 40}, indexes(t, s, 9))
}

func TestSinkIsUsedOnce(t *testing.T) {
	files := disktest.New()
	s := openSnapshots(t, files)
	first, err := begin(s, 10, []byte("first"))
	require.NoError(t, err)
	second, err := begin(s, 10, snapContent(10, 3))
	require.NoError(t, err)
	require.Equal(t, first.ID(), second.ID())
	require.NoError(t, first.Cancel())
	require.NoError(t, first.Cancel())
	require.NoError(t, first.Close(), "nothing is listed")
	require.Empty(t, indexes(t, s, 3))
	require.NoError(t, second.Close())
	require.NoError(t, second.Close(), "Raft closes a sink that the state has closed")
	require.NoError(t, second.Cancel())
	for _, k := range []raft.SnapshotSink{first, second} {
		_, err = k.Write([]byte("late"))
		require.Error(t, err)
	}
	require.Equal(t, []uint64{10}, indexes(t, s, 3))
	require.Equal(t, []string{snapPath(10)}, files.Paths())

	_, err = s.Create(0, 20, 2, snapConfig(20), 1, nil)
	require.ErrorContains(t, err, "version 0")
	_, _, err = s.Open("0-0")
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// damaged requires that a file is reported as damaged, and never as absent or
// as good.
func damaged(t testing.TB, files disk.FS, what string, args ...any) {
	t.Helper()
	_, err := disk.OpenSnapshots(files, snapDir, snapOf)
	var damage *disk.DamageError
	require.ErrorAs(t, err, &damage, fmt.Sprintf(what, args...))
	require.Equal(t, snapPath(10), damage.File)
}

// Every bit counts, and every length.
func TestSnapshotDamageIsFound(t *testing.T) {
	files := disktest.New()
	s := openSnapshots(t, files)
	require.NoError(t, take(s, 10, snapContent(10, 100)))
	require.NoError(t, take(s, 20, snapContent(20, 100)), "which is no excuse for the other one")
	good := files.Data(snapPath(10))
	for bit := range int64(len(good)) * 8 {
		files.Flip(snapPath(10), bit)
		damaged(t, files, "bit %d", bit)
		_, err := read(s, "000000000000000a-0000000000000001")
		var damage *disk.DamageError
		require.ErrorAs(t, err, &damage, "bit %d at run time", bit)
		files.Flip(snapPath(10), bit)
	}
	for size := range int64(len(good)) {
		files.Put(snapPath(10), good)
		files.Cut(snapPath(10), size)
		damaged(t, files, "cut to %d", size)
		files.Put(snapPath(10), good)
		files.Zero(snapPath(10), size, int64(len(good))-size)
		damaged(t, files, "zeros from %d", size)
	}
	files.Put(snapPath(10), append(bytes.Clone(good), 0))
	damaged(t, files, "longer")
	files.Put(snapPath(10), files.Data(snapPath(20)))
	damaged(t, files, "another snapshot")
	files.Put(snapPath(10), good)
	require.Equal(t, []uint64{20, 10}, indexes(t, openSnapshots(t, files), 100))
	require.Empty(t, files.OpenFiles())
}

// A chunk is valid in its place only.
func TestChunksThatChangedPlaces(t *testing.T) {
	files := disktest.New()
	s := openSnapshots(t, files)
	require.NoError(t, take(s, 10, snapContent(10, 3*chunkSize)))
	require.NoError(t, take(s, 20, snapContent(20, 3*chunkSize)))
	good, other := files.Data(snapPath(10)), files.Data(snapPath(20))
	head := len(good) - 3*(chunkSize+8) - 24
	chunk := func(of []byte, i int) []byte { return of[head+i*(chunkSize+8) : head+(i+1)*(chunkSize+8)] }
	for name, edit := range map[string]func(b []byte) []byte{
		"swapped":          func(b []byte) []byte { copy(chunk(b, 0), chunk(good, 1)); copy(chunk(b, 1), chunk(good, 0)); return b },
		"doubled":          func(b []byte) []byte { copy(chunk(b, 1), chunk(good, 0)); return b },
		"of another":       func(b []byte) []byte { copy(chunk(b, 1), chunk(other, 1)); return b },
		"left out":         func(b []byte) []byte { return slices.Delete(b, head+chunkSize+8, head+2*(chunkSize+8)) },
		"left out at last": func(b []byte) []byte { return slices.Delete(b, head+2*(chunkSize+8), head+3*(chunkSize+8)) },
		"another end":      func(b []byte) []byte { copy(b[len(b)-24:], other[len(other)-24:]); return b },
		"another head":     func(b []byte) []byte { copy(b[:head], other[:head]); return b },
	} {
		files.Put(snapPath(10), edit(bytes.Clone(good)))
		damaged(t, files, "%s", name)
	}
}

func TestSnapshotOfAnotherCluster(t *testing.T) {
	files := disktest.New()
	require.NoError(t, take(openSnapshots(t, files), 10, nil))
	_, err := disk.OpenSnapshots(files, snapDir, disk.Incarnation{9})
	var damage *disk.DamageError
	require.ErrorAs(t, err, &damage)
	require.ErrorContains(t, err, "incarnation "+snapOf.String())
	require.ErrorContains(t, err, disk.Incarnation{9}.String())
}

// The remains of a process are removed, and other files stay.
func TestUnfinishedSnapshotsAreRemoved(t *testing.T) {
	files := disktest.New()
	s := openSnapshots(t, files)
	require.NoError(t, take(s, 10, snapContent(10, 5)))
	_, err := begin(s, 20, snapContent(20, 2*chunkSize))
	require.NoError(t, err)
	files.Put(snapDir+"/note", []byte("the operator's"))
	require.Len(t, files.Paths(), 3)
	after := files.Kill()
	require.Equal(t, []uint64{10}, indexes(t, openSnapshots(t, after), 5))
	require.Equal(t, []string{snapPath(10), snapDir + "/note"}, after.Paths())
}

// An error of the disk ends one snapshot. The others stay, and the next one can
// be made when the disk works again.
func TestSnapshotsAfterAnError(t *testing.T) {
	const size = chunkSize + 10 // two chunks
	for _, failure := range []error{syscall.EIO, syscall.ENOSPC, syscall.EROFS} {
		for k := 1; ; k++ {
			files := disktest.New()
			s := openSnapshots(t, files)
			for _, index := range []uint64{10, 20} {
				require.NoError(t, take(s, index, snapContent(index, size)))
			}
			met := false
			nth := disktest.Nth(k, disktest.Any())
			stop := files.Fail(func(op disktest.Op) bool { hit := nth(op); met = met || hit; return hit }, failure)
			err := take(s, 30, snapContent(30, size))
			stop()
			if !met {
				require.NoError(t, err)
				require.Greater(t, k, 8)
				break
			}
			got := indexes(t, s, size)
			if err == nil {
				require.Equal(t, []uint64{30, 20}, got, "operation %d", k)
			} else {
				require.ErrorIs(t, err, failure, "operation %d", k)
				require.Contains(t, [][]uint64{{20, 10}, {30, 20, 10}}, got, "operation %d", k)
			}
			require.NoError(t, take(s, 40, snapContent(40, size)), "operation %d", k)
			got = indexes(t, s, size)
			require.Len(t, got, 2)
			require.EqualValues(t, 40, got[0])
			require.Len(t, files.Paths(), 2, "operation %d: %v", k, files.Paths())
			require.Empty(t, files.OpenFiles(), "operation %d", k)
			require.Equal(t, got, indexes(t, openSnapshots(t, files.Crash(0)), size))
		}
	}
}

// The power is lost before each operation. An acknowledged snapshot is there, and
// nothing that is there is half of a snapshot.
func TestSnapshotsAfterACrash(t *testing.T) {
	const size = 2000 // some sectors
	for k := 1; ; k++ {
		files := disktest.New()
		files.HaltAt(disktest.Nth(k, disktest.Any(disktest.Changes()...)))
		var acknowledged []uint64
		s, err := disk.OpenSnapshots(files, snapDir, snapOf)
		for index := uint64(10); err == nil && index <= 40; index += 10 {
			if err = take(s, index, snapContent(index, size)); err == nil {
				acknowledged = append(acknowledged, index)
			}
		}
		for seed := range uint64(12) {
			after := files.Crash(seed)
			s := openSnapshots(t, after)
			got := indexes(t, s, size)
			if n := len(acknowledged); n > 0 {
				require.Contains(t, got, acknowledged[n-1], "operation %d, seed %d", k, seed)
			}
			for _, path := range after.Paths() {
				require.True(t, strings.HasSuffix(path, ".snap"), path)
			}
			require.NoError(t, take(s, 50, snapContent(50, size)))
			require.EqualValues(t, 50, indexes(t, s, size)[0])
		}
		if err == nil {
			require.Equal(t, []uint64{10, 20, 30, 40}, acknowledged)
			return
		}
	}
}

// A disk that hangs delays neither List nor Open's refusal.
func TestListWhileTheDiskHangs(t *testing.T) {
	files := disktest.New()
	s := openSnapshots(t, files)
	require.NoError(t, take(s, 10, snapContent(10, 5)))
	k, err := begin(s, 20, snapContent(20, 5))
	require.NoError(t, err)
	for i, kind := range []disktest.Kind{disktest.Sync, disktest.Rename, disktest.SyncDir, disktest.Remove} {
		hangs := make(chan struct{}, 1)
		release := files.Block(func(op disktest.Op) bool {
			if op.Kind != kind {
				return false
			}
			hangs <- struct{}{}
			return true
		})
		closed := make(chan error, 1)
		go func() { closed <- k.Close() }()
		select {
		case <-hangs:
		case err := <-closed:
			t.Fatalf("no %s: %v", kind, err)
		}
		listed := make(chan int, 1)
		go func() {
			list, _ := s.List()
			listed <- len(list)
			s.Bytes()
			_, _, err := s.Open("none")
			if err == nil {
				listed <- -1
			}
			close(listed)
		}()
		select {
		case n := <-listed:
			require.GreaterOrEqual(t, n, 1)
			_, more := <-listed
			require.False(t, more)
		case <-time.After(20 * time.Second):
			t.Fatalf("List waits for a %s", kind)
		}
		release()
		require.NoError(t, <-closed)
		k, err = begin(s, uint64(30+10*i), snapContent(uint64(30+10*i), 5))
		require.NoError(t, err)
	}
	require.NoError(t, k.Cancel())
}

// Readers go on while snapshots are made and removed.
func TestSnapshotsAreReadAndMadeAtOnce(t *testing.T) {
	files := disktest.New()
	s := openSnapshots(t, files)
	require.NoError(t, take(s, 10, snapContent(10, 2*chunkSize)))
	var running sync.WaitGroup
	for range 2 {
		running.Go(func() {
			for range 50 {
				list, _ := s.List()
				b, err := read(s, list[0].ID)
				if errors.Is(err, fs.ErrNotExist) {
					continue // two newer ones were made since
				}
				if err != nil || len(b) != 2*chunkSize {
					t.Errorf("%d bytes: %v", len(b), err)
				}
			}
		})
	}
	for index := uint64(20); index < 200; index += 10 {
		require.NoError(t, take(s, index, snapContent(index, 2*chunkSize)))
	}
	running.Wait()
	require.Empty(t, files.OpenFiles())
}

// FuzzSnapshotFile reads any file. Only written content is a snapshot.
func FuzzSnapshotFile(f *testing.F) {
	files := disktest.New()
	require.NoError(f, take(openSnapshots(f, files), 10, []byte("the content")))
	good := files.Data(snapPath(10))
	f.Add(good)
	f.Add(good[:len(good)-24])
	f.Add([]byte("HFSNAP\x00\x02\xff\xff\x0f\x00"))
	f.Add(append(bytes.Clone(good[:20]), 0xff))
	f.Fuzz(func(t *testing.T, b []byte) {
		files := disktest.New()
		require.NoError(t, files.MakeDir(snapDir))
		files.Put(snapPath(10), b)
		s, err := disk.OpenSnapshots(files, snapDir, snapOf)
		require.Empty(t, files.OpenFiles())
		if bytes.Equal(b, good) {
			require.NoError(t, err)
			content, err := read(s, "000000000000000a-0000000000000001")
			require.NoError(t, err)
			require.Equal(t, "the content", string(content))
			return
		}
		var damage *disk.DamageError
		require.ErrorAs(t, err, &damage)
		require.LessOrEqual(t, damage.Offset, int64(len(b)))
	})
}
