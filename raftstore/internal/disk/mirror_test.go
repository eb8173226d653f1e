package disk_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk/disktest"
)

const (
	dir  = "/d"
	vote = "/d/vote"
)

// newMirror returns a disk with a mirror that holds payload.
func newMirror(t *testing.T, payload string) *disktest.FS {
	t.Helper()
	f := disktest.New()
	require.NoError(t, f.MakeDir(dir))
	require.NoError(t, disk.CreateMirror(f, vote, nil))
	m := openMirror(t, f)
	require.NoError(t, m.Store([]byte(payload)))
	require.NoError(t, m.Close())
	return f
}

func openMirror(t *testing.T, f *disktest.FS) *disk.Mirror {
	t.Helper()
	m, err := disk.OpenMirror(f, vote)
	require.NoError(t, err)
	return m
}

// load returns the content that a start would find.
func load(t *testing.T, f *disktest.FS) string {
	t.Helper()
	m := openMirror(t, f)
	_, payload := m.Load()
	require.NoError(t, m.Close())
	return string(payload)
}

// changing matches the k-th operation that changes the state after a crash.
func changing(k int) disktest.Match { return disktest.Nth(k, disktest.Any(disktest.Changes()...)) }

func TestMirror(t *testing.T) {
	f := newMirror(t, "one")
	m := openMirror(t, f)
	seq, payload := m.Load()
	require.Equal(t, uint64(1), seq)
	require.Equal(t, "one", string(payload))
	longest := bytes.Repeat([]byte{7}, disk.MaxMirror)
	require.NoError(t, m.Store(longest))
	require.Error(t, m.Store(append(longest, 7)))
	seq, payload = m.Load()
	require.Equal(t, uint64(2), seq)
	require.Equal(t, longest, payload)
	require.NoError(t, m.Close())
	require.ErrorIs(t, m.Store(nil), fs.ErrClosed)
	require.Empty(t, f.OpenFiles())
	require.Equal(t, string(longest), load(t, f))
}

// TestMirrorSurvivesCrashes loses power or kills the process before each
// operation, at a start and during a Store, and then once more after the start
// that follows. A payload that a Store confirmed or that a start returned is
// never lost.
func TestMirrorSurvivesCrashes(t *testing.T) {
	var writing string // the file that was being written when the power went
	// run starts on f and stores next, with the power lost before operation k.
	// It returns the payloads that may be found afterwards.
	run := func(f *disktest.FS, k int, may []string, next string) (possible []string, whole bool) {
		at := changing(k)
		f.HaltAt(func(op disktest.Op) bool {
			halts := at(op)
			if halts && op.Kind == disktest.Write {
				writing = op.Path
			}
			return halts
		})
		m, err := disk.OpenMirror(f, vote)
		if err != nil {
			require.ErrorIs(t, err, disktest.ErrHalted)
			return may, false
		}
		_, payload := m.Load()
		require.Contains(t, may, string(payload))
		if err := m.Store([]byte(next)); err != nil {
			require.ErrorIs(t, err, disktest.ErrHalted)
			return []string{string(payload), next}, false
		}
		return []string{next}, true
	}
	restarts := func(f *disktest.FS) []*disktest.FS {
		all := []*disktest.FS{f.Kill()}
		if writing != "" {
			torn := f.Crash(0)
			if torn.Data(writing) != nil { // even if a disk does not write a sector as a whole
				torn.Put(writing, []byte("torn"))
				all = append(all, torn)
			}
			writing = ""
		}
		for seed := range uint64(6) {
			all = append(all, f.Crash(seed))
		}
		return all
	}
	for k, whole := 1, false; !whole; k++ {
		f := newMirror(t, "1")
		var may, then []string
		may, whole = run(f, k, []string{"1"}, "2")
		for _, f := range restarts(f) {
			for j, whole := 1, false; !whole; j++ {
				again := f.Kill()
				then, whole = run(again, j, may, "3")
				for _, f := range restarts(again) {
					require.Contains(t, then, load(t, f), "operations %d and %d", k, j)
				}
			}
		}
	}
}

// TestMirrorIsMadeOrNot loses power while a mirror replaces another one.
func TestMirrorIsMadeOrNot(t *testing.T) {
	for k := 1; ; k++ {
		f := disktest.New()
		require.NoError(t, f.MakeDir(dir))
		require.NoError(t, disk.CreateMirror(f, vote, []byte("old")))
		f.HaltAt(changing(k))
		err := disk.CreateMirror(f, vote, []byte("new"))
		for seed := range uint64(60) {
			found := load(t, f.Crash(seed))
			if err == nil {
				require.Equal(t, "new", found)
			}
			require.Contains(t, []string{"old", "new"}, found)
		}
		if err == nil {
			return
		}
	}
}

// TestMirrorAfterFaults lets each operation of a Store fail, and then each one
// of the next Store. A third one must work, and must not rely on a Sync that
// failed.
func TestMirrorAfterFaults(t *testing.T) {
	check := func(f *disktest.FS, may []string, k, j int) {
		for seed := range uint64(20) {
			require.Contains(t, may, load(t, f.Crash(seed)), "faults %d and %d", k, j)
		}
	}
	for k, more := 1, true; more; k++ {
		for j, again := 1, true; more && again; j++ {
			f := newMirror(t, "0")
			m := openMirror(t, f)
			var first, second error
			if more, first = storeWithFault(f, m, k, "1"); !more {
				require.NoError(t, first)
				break
			}
			require.ErrorIs(t, first, syscall.EIO)
			_, payload := m.Load()
			require.Equal(t, "0", string(payload))
			check(f, []string{"0", "1"}, k, 0)
			may := []string{"0", "1", "2"}
			if again, second = storeWithFault(f, m, j, "2"); second == nil {
				may = []string{"2"}
			}
			check(f, may, k, j)
			require.NoError(t, m.Store([]byte("3")))
			check(f, []string{"3"}, k, j)
			require.NoError(t, m.Close())
			require.Empty(t, f.OpenFiles())
		}
	}
}

// storeWithFault stores payload while the k-th operation fails. It reports
// whether there were as many.
func storeWithFault(f *disktest.FS, m *disk.Mirror, k int, payload string) (fired bool, err error) {
	at := disktest.Nth(k, disktest.Any())
	stop := f.Fail(func(op disktest.Op) bool {
		matches := at(op)
		fired = fired || matches
		return matches
	}, syscall.EIO)
	defer stop()
	err = m.Store([]byte(payload))
	return fired, err
}

func TestMirrorNeedsNoRoom(t *testing.T) {
	f := newMirror(t, "old")
	m := openMirror(t, f)
	f.Fail(disktest.Any(disktest.Create, disktest.Allocate, disktest.Rename), syscall.ENOSPC)
	stop := f.Fail(disktest.Any(disktest.Sync), syscall.EIO)
	require.ErrorIs(t, m.Store([]byte("new")), syscall.EIO)
	stop()
	require.NoError(t, m.Store([]byte("new")))
}

// TestMirrorIsNotFooledByAnotherDirectory unmounts the disk during a fault, and
// replaces the files.
func TestMirrorIsNotFooledByAnotherDirectory(t *testing.T) {
	f := newMirror(t, "old")
	m := openMirror(t, f)
	stop := f.Fail(disktest.Any(disktest.Write), syscall.EIO)
	require.ErrorIs(t, m.Store([]byte("new")), syscall.EIO)
	stop()
	mount := f.Unmount(dir)
	for range 3 {
		require.ErrorIs(t, m.Store([]byte("new")), fs.ErrNotExist)
		names, err := f.List(dir)
		require.NoError(t, err)
		require.Empty(t, names)
	}
	mount()
	good := f.Data(vote + ".b")
	f.Put(vote+".b", newMirror(t, "other").Data(vote+".b"))
	var damage *disk.DamageError
	require.ErrorAs(t, m.Store([]byte("new")), &damage)
	require.Equal(t, vote+".b", damage.File)
	f.Put(vote+".b", good)
	f.Put(vote+".a", make([]byte, 600))
	require.NoError(t, m.Store([]byte("new")))
	require.Equal(t, "new", load(t, f))
}

// TestMirrorWithOneBadFile damages one of the files in each way: the payload is
// there, and both files are good after a start.
func TestMirrorWithOneBadFile(t *testing.T) {
	whole := newMirror(t, "payload")
	tries := 0
	check := func(what, path string, spoil func(f *disktest.FS)) {
		f := whole.Kill()
		spoil(f)
		state, err := disk.ReadMirror(f, vote)
		if err != nil || string(state.Payload) != "payload" || state.Bad == nil || !strings.Contains(state.Bad.Error(), path) {
			t.Fatalf("%s: %q, %v, %v", what, state.Payload, state.Bad, err)
		}
		if tries++; tries%50 > 0 && strings.HasPrefix(what, "bit") {
			return // all of this, for each bit, takes long
		}
		_, err = disk.OpenMirror(f, vote)
		require.NoError(t, err, what)
		state, err = disk.ReadMirror(f.Crash(0), vote)
		require.NoError(t, err, what)
		require.NoError(t, state.Bad, what)
		require.Equal(t, "payload", string(state.Payload), what)
	}
	for _, path := range []string{vote + ".a", vote + ".b"} {
		size := int64(len(whole.Data(path)))
		for bit := range size * 8 {
			check(fmt.Sprintf("bit %d of %s", bit, path), path, func(f *disktest.FS) { f.Flip(path, bit) })
		}
		for cut := range size {
			check(fmt.Sprintf("%s cut to %d", path, cut), path, func(f *disktest.FS) { f.Cut(path, cut) })
		}
		check(path+" longer", path, func(f *disktest.FS) { f.Put(path, append(f.Data(path), 0)) })
		check(path+" missing", path, func(f *disktest.FS) { f.Delete(path) })
		check(path+" zero", path, func(f *disktest.FS) { f.Zero(path, 0, size) })
		check(path+" of another mirror", path, func(f *disktest.FS) {
			require.NoError(t, disk.CreateMirror(f, "/d/mark", []byte("mark")))
			f.Put(path, f.Data("/d/mark.a"))
		})
		check(path+" unreadable", path, func(f *disktest.FS) {
			f.Fail(disktest.At(path, disktest.Read), syscall.EIO)
		})
	}
}

func TestMirrorWithOneOldFile(t *testing.T) {
	for _, path := range []string{vote + ".a", vote + ".b"} {
		f := newMirror(t, "old")
		old := f.Data(path)
		m := openMirror(t, f)
		require.NoError(t, m.Store([]byte("new")))
		f.Put(path, old)
		require.Equal(t, "new", load(t, f))
	}
}

func TestMirrorWithTwoBadFiles(t *testing.T) {
	whole := newMirror(t, "payload")
	read := func(spoil ...func(f *disktest.FS)) error {
		f := whole.Kill()
		for _, s := range spoil {
			s(f)
		}
		before := f.Data(vote + ".a")
		_, err := disk.OpenMirror(f, vote)
		require.Equal(t, before, f.Data(vote+".a"), "nothing is changed")
		require.Empty(t, f.OpenFiles())
		return err
	}
	flip := func(path string) func(*disktest.FS) { return func(f *disktest.FS) { f.Flip(path, 77) } }
	remove := func(path string) func(*disktest.FS) { return func(f *disktest.FS) { f.Delete(path) } }
	a, b := vote+".a", vote+".b"
	var damage *disk.DamageError
	require.ErrorAs(t, read(flip(a), flip(b)), &damage)
	require.Equal(t, a, damage.File)
	require.ErrorAs(t, read(remove(a), flip(b)), &damage)
	require.Equal(t, b, damage.File)
	require.ErrorAs(t, read(flip(a), remove(b)), &damage)
	require.ErrorIs(t, read(remove(a), remove(b)), fs.ErrNotExist)
	require.ErrorIs(t, read(flip(a), func(f *disktest.FS) { f.Fail(disktest.At(b), syscall.EACCES) }), syscall.EACCES, "it may pass")
	require.ErrorAs(t, read(func(f *disktest.FS) { f.Put(b, newMirror(t, "other").Data(b)) }), &damage, "one sequence, two contents")
}

// FuzzMirror accepts nothing but the written content.
func FuzzMirror(f *testing.F) {
	whole := disktest.New()
	require.NoError(f, whole.MakeDir(dir))
	require.NoError(f, disk.CreateMirror(whole, vote, []byte("payload")))
	good := whole.Data(vote + ".a")
	f.Add(good)
	f.Add(slices.Concat(good, good))
	f.Fuzz(func(t *testing.T, sector []byte) {
		files := disktest.New()
		require.NoError(t, files.MakeDir(dir))
		files.Put(vote+".a", sector)
		state, err := disk.ReadMirror(files, vote)
		var damage *disk.DamageError
		if err != nil {
			require.True(t, errors.As(err, &damage))
			return
		}
		require.NoError(t, disk.CreateMirror(files, vote, state.Payload))
		if state.Seq == 0 {
			require.Equal(t, sector, files.Data(vote+".a"))
		}
	})
}
