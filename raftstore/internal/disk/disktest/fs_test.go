package disktest_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/internal/bubble"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk/disktest"
)

const seeds = 200

// create makes a durable file with this content.
func create(t *testing.T, files disk.FS, path, data string) disk.File {
	t.Helper()
	require.NoError(t, files.MakeDir(filepath.Dir(path)))
	f, err := files.Create(path)
	require.NoError(t, err)
	write(t, f, data, 0)
	require.NoError(t, f.Sync())
	require.NoError(t, files.SyncDir(filepath.Dir(path)))
	return f
}

func write(t *testing.T, f disk.File, data string, off int64) {
	t.Helper()
	n, err := f.WriteAt([]byte(data), off)
	require.NoError(t, err)
	require.Equal(t, len(data), n)
}

// after returns the content of the file after each of many crashes, and how often.
func after(f *disktest.FS, path string) map[string]int {
	all := map[string]int{}
	for seed := range uint64(seeds) {
		data := f.Crash(seed).Data(path)
		if data == nil {
			all["absent"]++
			continue
		}
		all[string(data)]++
	}
	return all
}

func keys(m map[string]int) []string {
	var all []string
	for k := range m {
		all = append(all, k)
	}
	return all
}

func sector(letter string) string {
	s := make([]byte, disktest.Sector)
	for i := range s {
		s[i] = letter[0]
	}
	return string(s)
}

func TestWrittenAndSyncedIsDurable(t *testing.T) {
	f := disktest.New()
	create(t, f, "/d/x", "old")
	require.Equal(t, []string{"old"}, keys(after(f, "/d/x")))
}

func TestUnsyncedSectorsAreKeptOrLostOnTheirOwn(t *testing.T) {
	f := disktest.New()
	x := create(t, f, "/d/x", sector("a")+sector("b"))
	write(t, x, sector("A")+sector("B"), 0)
	require.Equal(t, sector("A")+sector("B"), string(f.Data("/d/x")), "a process sees its own writes")
	got := after(f, "/d/x")
	require.ElementsMatch(t, []string{
		sector("a") + sector("b"), sector("A") + sector("b"), sector("a") + sector("B"), sector("A") + sector("B"),
	}, keys(got))
	require.Equal(t, sector("a")+sector("b"), string(f.Crash(0).Data("/d/x")), "seed 0 keeps nothing")
	require.Equal(t, sector("A")+sector("B"), string(f.Crash(1).Data("/d/x")), "seed 1 keeps all")
	for seed := range uint64(seeds) {
		require.Equal(t, f.Crash(seed).Data("/d/x"), f.Crash(seed).Data("/d/x"), "the same seed chooses the same")
	}
	require.NoError(t, x.Sync())
	require.Equal(t, []string{sector("A") + sector("B")}, keys(after(f, "/d/x")))
}

func TestAnyVersionOfASectorMayBeFound(t *testing.T) {
	f := disktest.New()
	x := create(t, f, "/d/x", "0")
	for _, v := range []string{"1", "2", "3"} {
		write(t, x, v, 0)
	}
	require.ElementsMatch(t, []string{"0", "1", "2", "3"}, keys(after(f, "/d/x")))
}

func TestUnsyncedSizes(t *testing.T) {
	f := disktest.New()
	x := create(t, f, "/d/x", "ab")
	write(t, x, "cd", 2)
	// The content without the size is as good as lost; the size without the
	// content leaves zeros.
	require.ElementsMatch(t, []string{"ab", "abcd", "ab\x00\x00"}, keys(after(f, "/d/x")))
	require.NoError(t, x.Sync())
	require.NoError(t, x.Truncate(1))
	require.ElementsMatch(t, []string{"abcd", "a"}, keys(after(f, "/d/x")))
	require.NoError(t, x.Sync())
	require.NoError(t, x.Allocate(3))
	require.Equal(t, "a\x00\x00", string(f.Data("/d/x")), "nothing of the part that was cut returns")
	require.ElementsMatch(t, []string{"a", "a\x00\x00"}, keys(after(f, "/d/x")))
	require.NoError(t, x.Allocate(2))
	size, err := x.Size()
	require.NoError(t, err)
	require.Equal(t, int64(3), size, "Allocate cuts nothing")
}

func TestNamesNeedTheirDirectory(t *testing.T) {
	f := disktest.New()
	require.NoError(t, f.MakeDir("/d"))
	x, err := f.Create("/d/x")
	require.NoError(t, err)
	write(t, x, "1", 0)
	require.NoError(t, x.Sync())
	require.ElementsMatch(t, []string{"absent", "1"}, keys(after(f, "/d/x")), "a new name")
	require.NoError(t, f.SyncDir("/d"))
	require.Equal(t, []string{"1"}, keys(after(f, "/d/x")))
	require.NoError(t, f.Remove("/d/x"))
	require.Nil(t, f.Data("/d/x"))
	require.ElementsMatch(t, []string{"absent", "1"}, keys(after(f, "/d/x")), "a removed name")
	require.NoError(t, f.SyncDir("/d"))
	require.Equal(t, []string{"absent"}, keys(after(f, "/d/x")))
}

func TestRenameIsKeptOrLostAsAWhole(t *testing.T) {
	f := disktest.New()
	create(t, f, "/d/new", "new")
	create(t, f, "/d/x", "old")
	require.NoError(t, f.Rename("/d/new", "/d/x"))
	found := map[string]bool{}
	for seed := range uint64(seeds) {
		c := f.Crash(seed)
		found[fmt.Sprintf("%s %s", c.Data("/d/new"), c.Data("/d/x"))] = true
	}
	require.Equal(t, map[string]bool{"new old": true, " new": true}, found)
	require.NoError(t, f.SyncDir("/d"))
	require.Equal(t, []string{"new"}, keys(after(f, "/d/x")))
	require.Equal(t, []string{"absent"}, keys(after(f, "/d/new")))
}

func TestRenameBetweenDirectories(t *testing.T) {
	f := disktest.New()
	create(t, f, "/a/log/x", "x")
	require.NoError(t, f.MakeDir("/b"))
	require.NoError(t, f.Rename("/a/log", "/b/log"))
	places := func() map[string]bool {
		found := map[string]bool{}
		for seed := range uint64(seeds) {
			c := f.Crash(seed)
			found[fmt.Sprintf("%s %s", c.Data("/a/log/x"), c.Data("/b/log/x"))] = true
		}
		return found
	}
	require.Equal(t, map[string]bool{"x ": true, " x": true}, places())
	require.NoError(t, f.SyncDir("/b"))
	require.Equal(t, map[string]bool{"x ": true, " x": true}, places(), "both directories must be synced")
	require.NoError(t, f.Rename("/b/log", "/b/l2"))
	require.NoError(t, f.SyncDir("/b"))
	require.Equal(t, map[string]bool{" ": true}, places(), "a later change is not undone")
	require.NoError(t, f.SyncDir("/a"))
	require.Equal(t, []string{"x"}, keys(after(f, "/b/l2/x")))
}

func TestMadeDirectoriesAreDurable(t *testing.T) {
	for k := 1; k <= 10; k++ {
		f := disktest.New()
		f.HaltAt(disktest.Nth(k, disktest.Any(disktest.Changes()...)))
		if f.MakeDir("/a/b/c") != nil {
			continue
		}
		for seed := range uint64(seeds) {
			_, err := f.Crash(seed).List("/a/b/c")
			require.NoError(t, err)
		}
	}
	// A process that was killed after it made a directory did not sync it.
	for k := 1; k <= 10; k++ {
		f := disktest.New()
		f.HaltAt(disktest.Nth(k, disktest.Any(disktest.Changes()...)))
		_ = f.MakeDir("/a/b")
		f = f.Kill()
		require.NoError(t, f.MakeDir("/a/b"))
		for seed := range uint64(seeds) {
			_, err := f.Crash(seed).List("/a/b")
			require.NoError(t, err, "killed at operation %d", k)
		}
	}
}

// TestWriteFileIsAtomic loses power before each operation of disk.WriteFile.
func TestWriteFileIsAtomic(t *testing.T) {
	for k := 1; ; k++ {
		f := disktest.New()
		require.NoError(t, f.MakeDir("/d"))
		require.NoError(t, disk.WriteFile(f, "/d/x", []byte("old")))
		f.HaltAt(disktest.Nth(k, disktest.Any(disktest.Changes()...)))
		err := disk.WriteFile(f, "/d/x", []byte("new"))
		if err == nil {
			require.Equal(t, []string{"new"}, keys(after(f, "/d/x")))
			return
		}
		for _, data := range keys(after(f, "/d/x")) {
			require.Contains(t, []string{"old", "new"}, data, "before operation %d", k)
		}
	}
}

func TestFailedSyncIsNotRepaired(t *testing.T) {
	f := disktest.New()
	x := create(t, f, "/d/x", "old!")
	write(t, x, "new", 0)
	stop := f.Fail(disktest.Any(disktest.Sync), syscall.EIO)
	require.ErrorIs(t, x.Sync(), syscall.EIO)
	stop()
	require.NoError(t, x.Sync(), "the system has forgotten")
	require.Equal(t, "new!", string(f.Data("/d/x")), "reads show data that is not on the disk")
	require.Equal(t, []string{"old!"}, keys(after(f, "/d/x")))
	x.DropCache()
	require.Equal(t, "old!", string(f.Data("/d/x")))
	write(t, x, "new", 0)
	x.DropCache()
	require.Equal(t, "new!", string(f.Data("/d/x")), "data that waits to be written is not dropped")
	require.NoError(t, x.Sync())
	require.Equal(t, []string{"new!"}, keys(after(f, "/d/x")))
}

func TestFaults(t *testing.T) {
	f := disktest.New()
	x := create(t, f, "/d/x", "")
	stop := f.Fail(disktest.Nth(2, disktest.Any(disktest.Write)), syscall.ENOSPC)
	write(t, x, "1", 0)
	n, err := x.WriteAt([]byte("2345"), 1)
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.Equal(t, 2, n)
	require.Equal(t, "123", string(f.Data("/d/x")), "a write that fails has written a part")
	write(t, x, "4", 3)
	stop()

	stop = f.Fail(disktest.At("/d"), syscall.EROFS)
	for _, err := range []error{f.Remove("/d/x"), f.SyncDir("/d"), f.Rename("/e", "/d/e"), f.MakeDir("/d"), x.Truncate(0), x.Close()} {
		require.ErrorIs(t, err, syscall.EROFS)
	}
	require.NoError(t, f.MakeDir("/dd"), "a name that begins with the same letters")
	stop()
	require.Equal(t, "1234", string(f.Data("/d/x")))
	require.ErrorIs(t, x.Sync(), fs.ErrClosed, "Close closes even if it fails")
	require.Empty(t, f.OpenFiles())
	require.Equal(t, 5, f.Count(disktest.Write, disktest.Remove))

	record := f.Record()
	require.NoError(t, f.Rename("/d/x", "/d/y"))
	require.Equal(t, []disktest.Op{{Kind: disktest.Rename, Path: "/d/x", To: "/d/y"}}, record())
}

func TestBlockedOperations(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		f := disktest.New()
		x := create(t, f, "/d/x", "")
		release := f.Block(disktest.Any(disktest.Sync))
		write(t, x, "1", 0)
		begun := time.Now()
		go func() {
			time.Sleep(time.Minute)
			release()
		}()
		require.NoError(t, f.SyncDir("/d"), "other operations go on")
		require.NoError(t, x.Sync())
		require.Equal(t, time.Minute, time.Since(begun))
		require.Equal(t, "1", string(f.Crash(0).Data("/d/x")))

		f.Block(disktest.Any(disktest.Sync))
		go func() {
			time.Sleep(time.Minute)
			f.Halt()
		}()
		require.ErrorIs(t, x.Sync(), disktest.ErrHalted)
		require.ErrorIs(t, f.MakeDir("/d"), disktest.ErrHalted)
		require.NoError(t, f.Kill().MakeDir("/d"))
	})
}

func TestDamage(t *testing.T) {
	f := disktest.New()
	f.Put("/x", []byte("abcd"))
	f.Flip("/x", 8)
	require.Equal(t, []string{"accd"}, keys(after(f, "/x")))
	f.Zero("/x", 2, 9)
	require.Equal(t, []string{"ac\x00\x00"}, keys(after(f, "/x")))
	f.Cut("/x", 1)
	require.Equal(t, []string{"a"}, keys(after(f, "/x")))
	create(t, f, "/d/e/y", "1")
	require.Equal(t, []string{"/d/e/y", "/x"}, f.Paths())
	mount := f.Unmount("/d")
	names, err := f.List("/d")
	require.NoError(t, err)
	require.Empty(t, names)
	mount()
	require.Equal(t, []string{"1"}, keys(after(f, "/d/e/y")))
	f.Delete("/d")
	require.Equal(t, []string{"/x"}, f.Paths())
	require.Panics(t, func() { f.Flip("/d/e/y", 0) })
}

func TestLocks(t *testing.T) {
	f := disktest.New()
	unlock, err := f.Lock("/lock")
	require.NoError(t, err)
	_, err = f.Lock("/lock")
	require.ErrorIs(t, err, disk.ErrInUse)
	for _, restarted := range []*disktest.FS{f.Kill(), f.Crash(1)} {
		_, err = restarted.Lock("/lock")
		require.NoError(t, err, "the lock ends with its process")
	}
	require.NoError(t, unlock())
	require.Error(t, unlock())
	_, err = f.Lock("/lock")
	require.NoError(t, err)
}

// TestRestartsAreIndependent uses a file system after a crash and the one
// before it.
func TestRestartsAreIndependent(t *testing.T) {
	f := disktest.New()
	x := create(t, f, "/d/x", "1")
	write(t, x, "2", 0)
	killed, crashed := f.Kill(), f.Crash(0)
	write(t, x, "3", 0)
	require.NoError(t, f.Remove("/d/x"))
	require.Equal(t, "2", string(killed.Data("/d/x")))
	require.Equal(t, "1", string(killed.Crash(0).Data("/d/x")), "a write that was not durable still is not")
	require.Equal(t, "1", string(crashed.Data("/d/x")))
	y, err := killed.Open("/d/x")
	require.NoError(t, err)
	write(t, y, "4", 0)
	require.Equal(t, "1", string(crashed.Data("/d/x")))
}

func TestConcurrentUse(t *testing.T) {
	f := disktest.New()
	require.NoError(t, f.MakeDir("/d"))
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			path := fmt.Sprintf("/d/%d", i)
			for range 20 {
				if err := disk.WriteFile(f, path, []byte(path)); err != nil && !errors.Is(err, syscall.EIO) {
					t.Error(err)
				}
				stop := f.Fail(disktest.Nth(3, disktest.Any()), syscall.EIO)
				_ = f.Crash(uint64(i)).Paths()
				stop()
			}
		})
	}
	all.Wait()
	require.Empty(t, f.OpenFiles())
}

// TestLikeTheMachine does the same operations here and in a real directory.
func TestLikeTheMachine(t *testing.T) {
	for seed := range uint64(15) {
		random := rand.New(rand.NewPCG(seed, 0))
		machine, fake := &walk{files: disk.OS{}, root: t.TempDir()}, &walk{files: disktest.New(), root: "/"}
		for i := range 200 {
			op, a, b, size := random.IntN(11), random.IntN(5), random.IntN(5), random.Int64N(2000)
			want, got := machine.step(op, a, b, size), fake.step(op, a, b, size)
			require.Equal(t, want, got, "seed %d, step %d: operation %d", seed, i, op)
		}
		machine.step(0, 0, 0, 0) // closes the open files
	}
}

// walk does operations below root.
type walk struct {
	files disk.FS
	root  string
	open  disk.File
}

func (w *walk) path(i int) string {
	return filepath.Join(w.root, []string{"d", "d/e", "x", "d/y", "d/e/z"}[i])
}

func (w *walk) step(op, a, b int, size int64) string {
	var got any
	var err error
	switch op {
	case 0, 1:
		if w.open != nil {
			_ = w.open.Close()
		}
		if w.open, err = w.files.Open(w.path(a)); op == 1 && err != nil {
			w.open, err = w.files.Create(w.path(a))
		}
		if err != nil {
			w.open = nil
		}
	case 2:
		err = w.files.MakeDir(w.path(a))
	case 3:
		got, err = w.files.List(w.path(a))
		if err != nil {
			got = nil
		}
	case 4:
		if w.files.Rename(w.path(a), w.path(b)) != nil {
			err = errors.New("of several reasons, systems differ in the first")
		}
	case 5:
		err = w.files.Remove(w.path(a))
	case 6:
		err = w.files.SyncDir(w.root)
	default:
		if w.open != nil {
			got, err = w.use(op, size)
		}
	}
	return fmt.Sprint(got, " ", kindOf(err))
}

func (w *walk) use(op int, size int64) (any, error) {
	switch op {
	case 7:
		return w.open.WriteAt([]byte(fmt.Sprint("some text ", size)), size)
	case 8:
		return nil, w.open.Truncate(size)
	case 9:
		if err := w.open.Allocate(size + 1); err != nil {
			return nil, err
		}
		return nil, w.open.Sync()
	default:
		w.open.DropCache()
		length, err := w.open.Size()
		if err != nil {
			return nil, err
		}
		p := make([]byte, 300)
		n, err := w.open.ReadAt(p, size)
		return fmt.Sprint(length, string(p[:n])), err
	}
}

// kindOf names the kind of an error.
func kindOf(err error) string {
	for _, kind := range []error{nil, io.EOF, fs.ErrNotExist, fs.ErrExist, fs.ErrClosed} {
		if errors.Is(err, kind) {
			return fmt.Sprint(kind)
		}
	}
	return "another error"
}
