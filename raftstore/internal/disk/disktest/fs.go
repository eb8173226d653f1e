// Package disktest provides a disk.FS in memory, for tests. Its machine can
// lose power and its disk can fail, stall and damage its data.
//
// A write is durable after a Sync of its file, and a name is durable after a
// SyncDir of its directory. Crash decides on the rest: each sector
// of 512 bytes, each change of a file's size and each change of a name is kept
// or lost on its own. A rename is kept or lost as a whole.
package disktest

import (
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
)

// FS is a file system in memory. It is safe for concurrent use.
type FS struct {
	halted chan struct{} // closed by Halt

	mu      sync.Mutex
	root    *node
	pending []*nameChange // in order; those that SyncDir has not made durable
	open    map[*file]struct{}
	counts  map[Kind]int
	hooks   []*hook
	records []*recording
}

var _ disk.FS = (*FS)(nil)

// New returns a file system with an empty root directory.
func New() *FS { return newFS(newDir()) }

func newFS(root *node) *FS {
	return &FS{halted: make(chan struct{}), root: root, open: map[*file]struct{}{}, counts: map[Kind]int{}}
}

// node is a file or a directory, independent of its names.
type node struct {
	isDir   bool
	entries map[string]*node // of a directory, as a process sees it
	stable  map[string]*node // of a directory, on the disk
	content                  // of a file
	locked  bool
}

func newDir() *node {
	return &node{isDir: true, entries: map[string]*node{}, stable: map[string]*node{}}
}

// entry is a name in a directory.
type entry struct {
	dir  *node
	name string
}

// nameChange gives n the name to and takes the name from away. One of both may
// be missing.
type nameChange struct {
	n        *node
	from, to entry
	unsynced map[*node]bool // directories that must be synced before it is durable
}

func (c *nameChange) entries() []entry {
	return slices.DeleteFunc([]entry{c.from, c.to}, func(e entry) bool { return e.dir == nil })
}

// split returns the names on the way to path.
func split(path string) []string {
	path = filepath.Clean(path)
	return slices.DeleteFunc(strings.Split(path, string(filepath.Separator)), func(name string) bool {
		return name == "" || name == "."
	})
}

// find returns the node at path.
func (f *FS) find(path string) (*node, error) {
	n := f.root
	for _, name := range split(path) {
		if !n.isDir {
			return nil, syscall.ENOTDIR
		}
		if n = n.entries[name]; n == nil {
			return nil, fs.ErrNotExist
		}
	}
	return n, nil
}

// locate returns the directory of path and the node there, if there is one.
func (f *FS) locate(path string) (entry, *node, error) {
	names := split(path)
	if len(names) == 0 {
		return entry{}, nil, fs.ErrInvalid
	}
	dir, err := f.find(filepath.Dir(filepath.Clean(path)))
	if err != nil {
		return entry{}, nil, err
	}
	if !dir.isDir {
		return entry{}, nil, syscall.ENOTDIR
	}
	name := names[len(names)-1]
	return entry{dir, name}, dir.entries[name], nil
}

// change does c for processes, and queues it for the disk.
func (f *FS) change(c nameChange) {
	c.unsynced = map[*node]bool{}
	for _, e := range c.entries() {
		c.unsynced[e.dir] = true
	}
	if c.from.dir != nil {
		delete(c.from.dir.entries, c.from.name)
	}
	if c.to.dir != nil {
		c.to.dir.entries[c.to.name] = c.n
	}
	f.pending = append(f.pending, &c)
}

// MakeDir implements disk.FS.
func (f *FS) MakeDir(dir string) error { return disk.MakeDirs(f, dir) }

// Mkdir implements disk.DirMaker.
func (f *FS) Mkdir(dir string) (made bool, err error) {
	err = f.do(Op{Kind: Mkdir, Path: dir}, func() error {
		if len(split(dir)) == 0 {
			return nil
		}
		at, n, err := f.locate(dir)
		switch {
		case err != nil:
			return err
		case n == nil:
			f.change(nameChange{n: newDir(), to: at})
			made = true
		case !n.isDir:
			return syscall.ENOTDIR
		}
		return nil
	})
	return made, err
}

// List implements disk.FS.
func (f *FS) List(dir string) (names []string, err error) {
	err = f.do(Op{Kind: List, Path: dir}, func() error {
		n, err := f.find(dir)
		if err != nil {
			return err
		}
		if !n.isDir {
			return syscall.ENOTDIR
		}
		names = slices.Sorted(maps.Keys(n.entries))
		return nil
	})
	return names, err
}

// Open implements disk.FS.
func (f *FS) Open(path string) (opened disk.File, err error) {
	err = f.do(Op{Kind: Open, Path: path}, func() error {
		n, err := f.find(path)
		if err != nil {
			return err
		}
		if n.isDir {
			return syscall.EISDIR
		}
		opened = f.handle(path, n)
		return nil
	})
	return opened, err
}

// Create implements disk.FS.
func (f *FS) Create(path string) (created disk.File, err error) {
	err = f.do(Op{Kind: Create, Path: path}, func() error {
		at, n, err := f.locate(path)
		if err != nil {
			return err
		}
		if n != nil {
			return fs.ErrExist
		}
		n = &node{}
		f.change(nameChange{n: n, to: at})
		created = f.handle(path, n)
		return nil
	})
	return created, err
}

// Rename implements disk.FS.
func (f *FS) Rename(from, to string) error {
	return f.do(Op{Kind: Rename, Path: from, To: to}, func() error {
		old, n, err := f.locate(from)
		if err != nil {
			return err
		}
		if n == nil {
			return fs.ErrNotExist
		}
		at, replaced, err := f.locate(to)
		switch {
		case err != nil:
			return err
		case replaced == nil:
		case replaced.isDir:
			return fs.ErrExist // also the directory itself, as in package os
		case replaced == n:
			return nil
		case n.isDir:
			return syscall.ENOTDIR
		}
		if n.isDir && n.holds(at.dir) {
			return fs.ErrInvalid
		}
		f.change(nameChange{n: n, from: old, to: at})
		return nil
	})
}

// holds reports whether dir is n or below it.
func (n *node) holds(dir *node) bool {
	if n == dir {
		return true
	}
	for _, e := range n.entries {
		if e.holds(dir) {
			return true
		}
	}
	return false
}

// Remove implements disk.FS.
func (f *FS) Remove(path string) error {
	return f.do(Op{Kind: Remove, Path: path}, func() error {
		at, n, err := f.locate(path)
		if err != nil {
			return err
		}
		if n == nil {
			return fs.ErrNotExist
		}
		if n.isDir && len(n.entries) > 0 {
			return syscall.ENOTEMPTY
		}
		f.change(nameChange{n: n, from: at})
		return nil
	})
}

// SyncDir implements disk.FS.
func (f *FS) SyncDir(dir string) error {
	return f.do(Op{Kind: SyncDir, Path: dir}, func() error {
		n, err := f.find(dir)
		if err != nil {
			return err
		}
		if !n.isDir {
			return syscall.ENOTDIR
		}
		f.settleNames(n)
		return nil
	})
}

// settleNames makes the names in dir durable. A change waits for those before
// it that are about the same name.
func (f *FS) settleNames(dir *node) {
	waiting := map[entry]bool{}
	f.pending = slices.DeleteFunc(f.pending, func(c *nameChange) bool {
		delete(c.unsynced, dir)
		settled := len(c.unsynced) == 0
		for _, e := range c.entries() {
			settled = settled && !waiting[e]
		}
		if settled {
			c.apply(func(dir *node) map[string]*node { return dir.stable })
			return true
		}
		for _, e := range c.entries() {
			waiting[e] = true
		}
		return false
	})
}

// apply does the change to names, which returns the names in a directory.
func (c *nameChange) apply(names func(dir *node) map[string]*node) {
	if c.from.dir != nil && names(c.from.dir)[c.from.name] == c.n {
		delete(names(c.from.dir), c.from.name)
	}
	if c.to.dir != nil {
		names(c.to.dir)[c.to.name] = c.n
	}
}

// Lock implements disk.FS.
func (f *FS) Lock(path string) (unlock func() error, err error) {
	err = f.do(Op{Kind: Lock, Path: path}, func() error {
		at, n, err := f.locate(path)
		switch {
		case err != nil:
			return err
		case n == nil:
			n = &node{}
			f.change(nameChange{n: n, to: at})
		case n.isDir:
			return syscall.EISDIR
		case n.locked:
			return disk.ErrInUse
		}
		n.locked = true
		unlock = func() error {
			f.mu.Lock()
			defer f.mu.Unlock()
			if !n.locked {
				return fs.ErrClosed
			}
			n.locked = false
			return nil
		}
		return nil
	})
	return unlock, err
}

// OpenFiles returns the paths of the files that are open, sorted.
func (f *FS) OpenFiles() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var paths []string
	for h := range f.open {
		paths = append(paths, h.path)
	}
	slices.Sort(paths)
	return paths
}
