// Package disk keeps the files of one node of the embedded Raft: whose directory
// it is, the term and the vote, the log, and the snapshots.
//
// Everything that is read is checked. Damage is reported with its file
// and offset, and is never taken for an end of the data or for an absence.
package disk

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// ErrInUse says that another process has the data directory.
var ErrInUse = errors.New("in use by another process")

// File is an open file.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Size() (int64, error)
	// Sync makes durable the writes and the size of the file. After an
	// error the content of the pages that were written is unknown: nobody may
	// call Sync again in the hope that they are written then.
	Sync() error
	Truncate(size int64) error
	// Allocate reserves room up to size and makes the file that long; the
	// new part reads as zeros. Where the system cannot reserve, the file is
	// made longer only.
	Allocate(size int64) error
	// DropCache asks the system to forget the pages that it has of the file,
	// so that the next read shows the content of the disk. It is best effort.
	DropCache()
}

// FS is the operations of the disk that a node needs. Paths are as package os takes them.
type FS interface {
	// MakeDir makes a directory that only this user can use, parents too. Each
	// directory that it makes is durable when it returns.
	MakeDir(dir string) error
	// List returns the names in a directory, sorted.
	List(dir string) ([]string, error)
	// Open opens an existing file for reading and writing.
	Open(path string) (File, error)
	// Create makes a file that only this user can read, and fails with
	// fs.ErrExist where it is there already. It is durable after a SyncDir.
	Create(path string) (File, error)
	// Rename gives a file or a directory another name, in the place of a file
	// that has that name. It is durable after a SyncDir.
	Rename(from, to string) error
	// Remove removes a file or an empty directory.
	Remove(path string) error
	// SyncDir makes the entries of a directory durable.
	SyncDir(dir string) error
	// Lock takes the exclusive lock of a file, which it makes, without
	// waiting: ErrInUse when another process has it.
	Lock(path string) (unlock func() error, err error)
}

// A DirMaker has the operations that MakeDirs needs.
type DirMaker interface {
	// Mkdir makes one directory. It reports false where there is one already,
	// and fails with fs.ErrNotExist where its parent is missing.
	Mkdir(dir string) (made bool, err error)
	// SyncDir makes the entries of a directory durable.
	SyncDir(dir string) error
}

// MakeDirs makes dir and the parents that are missing, each durably. It is for
// implementations of FS.
//
// The first directory of the path that is there already is made durable too: a
// process that was killed may have made it just before.
func MakeDirs(in DirMaker, dir string) error {
	up := parent(dir)
	made, err := in.Mkdir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && up != dir:
		if err := MakeDirs(in, up); err != nil {
			return err
		}
		if _, err := in.Mkdir(dir); err != nil {
			return err
		}
	case err != nil:
		return err
	case made:
		if err := syncFound(in, parent(up)); err != nil {
			return err
		}
	default:
		return syncFound(in, up)
	}
	return in.SyncDir(up)
}

// syncFound makes the entry of a directory that MakeDirs found durable, unless
// another user made it.
func syncFound(in DirMaker, parent string) error {
	err := in.SyncDir(parent)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		return nil
	}
	return err
}

func parent(path string) string { return filepath.Dir(filepath.Clean(path)) }

// ReadFile returns the content of a file. It refuses one that is longer than
// limit, before it reads any of it.
func ReadFile(files FS, path string, limit int64) ([]byte, error) {
	f, err := files.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, &DamageError{File: path, Offset: limit, What: "the file is longer than it can be"}
	}
	data := make([]byte, size)
	if _, err := f.ReadAt(data, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return data, nil
}

// tempName ends the name of a file that WriteFile has not finished.
const tempName = ".new"

// WriteFile replaces a file durably: after a crash either the old or the new
// content is there, after a return without an error the new one.
func WriteFile(files FS, path string, data []byte) error {
	temp := path + tempName
	if err := files.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := files.Create(temp)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, 0)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := files.Rename(temp, path); err != nil {
		return err
	}
	return files.SyncDir(parent(path))
}
