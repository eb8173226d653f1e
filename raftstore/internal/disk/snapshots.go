package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/raft"
)

const (
	snapshotSuffix = ".snap"
	tempSuffix     = ".tmp"

	// keptSnapshots is how many snapshots stay: the newest one, and the one
	// before it, which may be on its way to another node.
	keptSnapshots = 2
)

// Snapshots keeps the snapshots of one directory: raft.SnapshotStore. It is safe
// for concurrent use.
//
// Every listed snapshot was verified in full when the directory was opened, or was
// written since. A snapshot is verified again while it is read.
type Snapshots struct {
	files       FS
	dir         string
	incarnation Incarnation

	names sync.Mutex // serialises the operations that give and take names; it may wait for the disk
	stale []string   // under names: paths that are to be removed

	mu    sync.Mutex       // never held while the disk is asked
	list  []storedSnapshot // the newest first
	drawn int              // names of temporary files
}

// storedSnapshot is one that is listed.
type storedSnapshot struct {
	meta  raft.SnapshotMeta
	bytes int64
}

var _ raft.SnapshotStore = (*Snapshots)(nil)

// OpenSnapshots opens the snapshots in dir, which it makes if need be. It
// removes those that were not finished, and verifies the others. One that is not
// as it was written, or is not of that incarnation, is a *DamageError, even if
// another one would do: the log may begin behind the older one.
func OpenSnapshots(files FS, dir string, incarnation Incarnation) (*Snapshots, error) {
	s := &Snapshots{files: files, dir: dir, incarnation: incarnation}
	if err := files.MakeDir(dir); err != nil {
		return nil, err
	}
	names, err := files.List(dir)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		switch path := filepath.Join(dir, name); {
		case strings.HasSuffix(name, tempSuffix):
			if err := files.Remove(path); err != nil {
				return nil, err
			}
		case strings.HasSuffix(name, snapshotSuffix):
			stored, err := s.verify(path)
			if err != nil {
				return nil, err
			}
			s.insert(stored)
		}
	}
	s.names.Lock()
	defer s.names.Unlock()
	s.prune("")
	s.sweep()
	return s, nil
}

func (s *Snapshots) path(id string) string { return filepath.Join(s.dir, id+snapshotSuffix) }

// open opens a snapshot file and checks that it is the one of its name.
func (s *Snapshots) open(path string) (File, *snapshotReader, error) {
	file, err := s.files.Open(path)
	if err != nil {
		return nil, nil, err
	}
	size, err := file.Size()
	var r *snapshotReader
	if err == nil {
		r, err = newSnapshotReader(file, path, size)
	}
	if err == nil {
		err = s.check(&r.meta, path)
	}
	if err != nil {
		return nil, nil, errors.Join(err, file.Close())
	}
	return file, r, nil
}

func (s *Snapshots) check(m *snapshotMeta, path string) error {
	what := ""
	switch {
	case s.path(snapshotID(m.Index, m.Term)) != path:
		what = fmt.Sprintf("it holds the snapshot %s", snapshotID(m.Index, m.Term))
	case m.Incarnation != s.incarnation.String():
		what = fmt.Sprintf("it is of incarnation %s of the cluster, and this node is of %v", m.Incarnation, s.incarnation)
	case m.Version != raft.SnapshotVersionMax:
		what = fmt.Sprintf("it has version %d of Raft's format, want %d", m.Version, raft.SnapshotVersionMax)
	default:
		return nil
	}
	return &DamageError{File: path, What: what}
}

// verify reads a snapshot file as a whole.
func (s *Snapshots) verify(path string) (stored storedSnapshot, err error) {
	file, r, err := s.open(path)
	if err != nil {
		return stored, err
	}
	size, err := io.Copy(io.Discard, r)
	if err := errors.Join(err, file.Close()); err != nil {
		return stored, err
	}
	return storedSnapshot{meta: r.meta.raft(size), bytes: r.at}, nil
}

// insert lists a snapshot, in the place of one of the same name.
func (s *Snapshots) insert(stored storedSnapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = slices.DeleteFunc(s.list, func(o storedSnapshot) bool { return o.meta.ID == stored.meta.ID })
	at, _ := slices.BinarySearchFunc(s.list, stored.meta.ID, func(o storedSnapshot, id string) int {
		return strings.Compare(id, o.meta.ID)
	})
	s.list = slices.Insert(s.list, at, stored)
}

// prune takes all but the newest snapshots and the one named keep off the list.
// The caller holds names, and must sweep.
func (s *Snapshots) prune(keep string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.list) - 1; i >= keptSnapshots; i-- {
		if id := s.list[i].meta.ID; id != keep {
			s.stale = append(s.stale, s.path(id))
			s.list = slices.Delete(s.list, i, i+1)
		}
	}
}

// sweep removes stale files. One that cannot be removed is tried again the next
// time, or when the directory is opened. The caller holds names.
func (s *Snapshots) sweep() {
	s.stale = slices.DeleteFunc(s.stale, func(path string) bool {
		err := s.files.Remove(path)
		return err == nil || errors.Is(err, fs.ErrNotExist)
	})
}

// List returns the snapshots, the newest first: raft.SnapshotStore. It does not
// ask the disk, which may hang.
func (s *Snapshots) List() ([]*raft.SnapshotMeta, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*raft.SnapshotMeta
	for i := range s.list {
		meta := s.list[i].meta
		out = append(out, &meta)
	}
	return out, nil
}

// Bytes returns how much the files of the snapshots take.
func (s *Snapshots) Bytes() (n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.list {
		n += s.list[i].bytes
	}
	return n
}

// Open returns a snapshot and its content: raft.SnapshotStore. The content ends
// with io.EOF only if all of it is as it was written, else with a *DamageError
// or the error of the disk.
func (s *Snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	s.mu.Lock()
	at := slices.IndexFunc(s.list, func(o storedSnapshot) bool { return o.meta.ID == id })
	if at < 0 {
		s.mu.Unlock()
		return nil, nil, fmt.Errorf("snapshot %q: %w", id, fs.ErrNotExist)
	}
	meta := s.list[at].meta
	s.mu.Unlock()
	file, r, err := s.open(s.path(id))
	if err != nil {
		return nil, nil, err
	}
	return &meta, struct {
		io.Reader
		io.Closer
	}{r, file}, nil
}
