package disk_test

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
)

func mode(t *testing.T, path string) fs.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	require.NoError(t, err)
	return info.Mode().Perm()
}

func TestOSMakesPrivateDirectories(t *testing.T) {
	files, root := disk.OS{}, t.TempDir()
	deep := filepath.Join(root, "x", "y", "z")
	for range 2 {
		require.NoError(t, files.MakeDir(deep))
	}
	if runtime.GOOS != "windows" {
		for _, d := range []string{deep, filepath.Dir(deep)} {
			require.Equal(t, fs.FileMode(0o700), mode(t, d))
		}
	}
	require.NoError(t, files.MakeDir(deep+string(filepath.Separator)), "a path that is not clean")
	require.NoError(t, os.WriteFile(filepath.Join(root, "file"), nil, 0o600))
	require.ErrorContains(t, files.MakeDir(filepath.Join(root, "file")), "it is a file")
	require.Error(t, files.MakeDir(filepath.Join(root, "file", "x")))
}

func TestOSMakesRelativeDirectories(t *testing.T) {
	t.Chdir(t.TempDir())
	require.NoError(t, disk.OS{}.MakeDir("x/y"))
	require.NoError(t, disk.OS{}.MakeDir("z"))
	names, err := disk.OS{}.List(".")
	require.NoError(t, err)
	require.Equal(t, []string{"x", "z"}, names)
}

// TestOSMakesDirectoriesBesideForeignOnes has a parent that may be entered but
// not read, as directories of another user often are.
func TestOSMakesDirectoriesBesideForeignOnes(t *testing.T) {
	if os.Geteuid() <= 0 {
		t.Skip("no permission is missing")
	}
	root := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(root, "up", "mine"), 0o700))
	require.NoError(t, os.Chmod(filepath.Join(root, "up"), 0o100))
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(root, "up"), 0o700) })
	require.NoError(t, disk.OS{}.MakeDir(filepath.Join(root, "up", "mine")))
	require.NoError(t, disk.OS{}.MakeDir(filepath.Join(root, "up", "mine", "data")))
}

func TestOSFile(t *testing.T) {
	files, root := disk.OS{}, t.TempDir()
	path := filepath.Join(root, "x")
	f, err := files.Create(path)
	require.NoError(t, err)
	defer f.Close()
	if runtime.GOOS != "windows" {
		require.Equal(t, fs.FileMode(0o600), mode(t, path))
	}
	_, err = files.Create(path)
	require.ErrorIs(t, err, fs.ErrExist)
	_, err = files.Open(filepath.Join(root, "y"))
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = f.WriteAt([]byte("text"), 2)
	require.NoError(t, err)
	size := func() int64 {
		n, err := f.Size()
		require.NoError(t, err)
		return n
	}
	require.Equal(t, int64(6), size())
	require.NoError(t, f.Allocate(4096))
	require.Equal(t, int64(4096), size())
	require.NoError(t, f.Allocate(10))
	require.Equal(t, int64(4096), size(), "Allocate cuts nothing")
	require.NoError(t, f.Sync())
	f.DropCache()
	p := make([]byte, 8)
	_, err = f.ReadAt(p, 0)
	require.NoError(t, err)
	require.Equal(t, "\x00\x00text\x00\x00", string(p))
	require.NoError(t, f.Truncate(4))
	n, err := f.ReadAt(p, 0)
	require.ErrorIs(t, err, io.EOF)
	require.Equal(t, 4, n)
	require.NoError(t, files.SyncDir(root))
	require.ErrorIs(t, files.SyncDir(filepath.Join(root, "none")), fs.ErrNotExist)
}

func TestOSLock(t *testing.T) {
	if runtime.GOOS == "solaris" || runtime.GOOS == "aix" {
		t.Skip("locks belong to the process")
	}
	requireLock(t, filepath.Join(t.TempDir(), "lock"), func() {})
}

// requireLock requires that nobody else takes the lock at path until it is ended. taken runs
// while the lock is held.
func requireLock(t *testing.T, path string, taken func()) {
	t.Helper()
	files := disk.OS{}
	unlock, err := files.Lock(path)
	require.NoError(t, err)
	taken()
	_, err = files.Lock(path)
	require.ErrorIs(t, err, disk.ErrInUse)
	require.NoError(t, unlock())
	unlock, err = files.Lock(path)
	require.NoError(t, err)
	require.NoError(t, unlock())
}

func TestReadAndWriteFile(t *testing.T) {
	files, path := disk.OS{}, filepath.Join(t.TempDir(), "x")
	require.NoError(t, disk.WriteFile(files, path, []byte("old")))
	require.NoError(t, os.WriteFile(path+".new", []byte("the rest of a crash, and longer"), 0o600))
	require.NoError(t, disk.WriteFile(files, path, []byte("new")))
	data, err := disk.ReadFile(files, path, 3)
	require.NoError(t, err)
	require.Equal(t, "new", string(data))
	_, err = disk.ReadFile(files, path, 2)
	var damage *disk.DamageError
	require.ErrorAs(t, err, &damage)
	require.Equal(t, &disk.DamageError{File: path, Offset: 2, What: "the file is longer than it can be"}, damage)
	names, err := files.List(filepath.Dir(path))
	require.NoError(t, err)
	require.Equal(t, []string{"x"}, names)
}

// TestDirectoryOnTheMachine begins two lives in a real directory.
func TestDirectoryOnTheMachine(t *testing.T) {
	files, root := disk.OS{}, filepath.Join(t.TempDir(), "data")
	require.NoError(t, files.MakeDir(root))
	nothing := func(disk.Identity, disk.Mark) (disk.Stored, error) { return disk.Stored{}, nil }
	s, err := disk.Open(files, root, owner, nothing)
	require.NoError(t, err)
	require.Equal(t, disk.Fresh, s.Condition)
	i := s.Identity
	i.Incarnation, i.Founders = inc, map[string]disk.Life{"a": i.Life}
	require.NoError(t, disk.WriteIdentity(files, root, i))
	votes, v, err := disk.OpenVote(files, root)
	require.NoError(t, err)
	v.Term = 2
	require.NoError(t, votes.Store(v.Encode()))
	require.NoError(t, votes.Close())
	s, err = disk.Open(files, root, owner, nothing)
	require.NoError(t, err)
	require.Equal(t, disk.Short, s.Condition)
	require.NoError(t, disk.SetAside(files, root, s.Life()))
	i.Life, i.Founders = lifeB, nil
	require.NoError(t, disk.Make(files, root, i))
	s, err = disk.Open(files, root, owner, nothing)
	require.NoError(t, err)
	require.Equal(t, disk.Joiner, s.Condition)
	require.Equal(t, i, s.Identity)
}
