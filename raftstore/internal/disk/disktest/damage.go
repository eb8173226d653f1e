package disktest

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
)

// The functions here are no operations: they are not counted, meet no fault and
// work after Halt. Their effect is durable, with everything else in the file
// and in its directory. They panic where the path is wrong.

// Flip inverts one bit of a file.
func (f *FS) Flip(path string, bit int64) {
	f.edit(path, func(data []byte) []byte {
		data[bit/8] ^= 1 << (bit % 8)
		return data
	})
}

// Cut makes a file shorter.
func (f *FS) Cut(path string, size int64) {
	f.edit(path, func(data []byte) []byte { return data[:size:size] })
}

// Zero clears a part of a file.
func (f *FS) Zero(path string, off, length int64) {
	f.edit(path, func(data []byte) []byte {
		clear(data[off:min(off+length, int64(len(data)))])
		return data
	})
}

// Data returns the content of a file as a process sees it, or nil if there is
// no such file.
func (f *FS) Data(path string) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.find(path)
	if err != nil || n.isDir {
		return nil
	}
	return append([]byte{}, n.data...)
}

// Put writes a file, which need not exist.
func (f *FS) Put(path string, data []byte) {
	f.mu.Lock()
	_, n, err := f.locate(path)
	if err == nil && n == nil {
		at, _, _ := f.locate(path)
		f.change(nameChange{n: &node{}, to: at})
	}
	f.mu.Unlock()
	f.edit(path, func([]byte) []byte { return slices.Clone(data) })
}

// Delete removes a file or a directory with all that is in it.
func (f *FS) Delete(path string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at, n, err := f.locate(path)
	if err == nil && n == nil {
		err = fs.ErrNotExist
	}
	must(path, err)
	f.change(nameChange{n: n, from: at})
	f.settleNames(at.dir)
}

// Unmount shows an empty directory in the place of dir, until mount is called.
func (f *FS) Unmount(dir string) (mount func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at, n, err := f.locate(dir)
	if err == nil && (n == nil || !n.isDir) {
		err = fs.ErrNotExist
	}
	must(dir, err)
	put := func(n *node) {
		f.settleNames(at.dir)
		at.dir.entries[at.name], at.dir.stable[at.name] = n, n
	}
	put(newDir())
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		put(n)
	}
}

// Paths returns the paths of all files, sorted.
func (f *FS) Paths() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var paths []string
	var visit func(path string, n *node)
	visit = func(path string, n *node) {
		if !n.isDir {
			paths = append(paths, path)
		}
		for name, e := range n.entries {
			visit(filepath.Join(path, name), e)
		}
	}
	visit(string(filepath.Separator), f.root)
	slices.Sort(paths)
	return paths
}

func (f *FS) edit(path string, change func(data []byte) []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at, n, err := f.locate(path)
	if err == nil && (n == nil || n.isDir) {
		err = fs.ErrNotExist
	}
	must(path, err)
	f.settleNames(at.dir)
	n.data = change(slices.Clone(n.data))
	n.disk, n.pending = slices.Clone(n.data), nil
}

func must(path string, err error) {
	if err != nil {
		panic(fmt.Sprintf("disktest: %s: %v", path, err))
	}
}
