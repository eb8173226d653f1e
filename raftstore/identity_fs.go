package raftstore

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	walfs "github.com/hashicorp/raft-wal/fs"
	waltypes "github.com/hashicorp/raft-wal/types"
)

// fileSystem is what the node asks of the disk, so that tests can make it
// fail.
type fileSystem interface {
	// MakeDir makes a directory that only this user can use, parents too.
	MakeDir(dir string) error
	// List names what is in a directory.
	List(dir string) ([]string, error)
	ReadFile(path string) ([]byte, error)
	// WriteFile replaces a file durably: after a crash either the old or the
	// new content is there, after a return the new one.
	WriteFile(path string, data []byte) error
	// Lock takes the exclusive lock of a file, which it makes, without
	// waiting: errDirInUse when another process has it.
	Lock(path string) (unlock func() error, err error)
	// WAL is where the log's segments live.
	WAL() waltypes.VFS
}

// osFiles is the file system of the machine.
type osFiles struct{}

func (osFiles) MakeDir(dir string) error { return os.MkdirAll(dir, 0o700) }

func (osFiles) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

func (osFiles) ReadFile(path string) ([]byte, error) {
	return os.ReadFile(path) //nolint:gosec // the data directory is the operator's choice
}

func (osFiles) WriteFile(path string, data []byte) (err error) {
	temp := path + ".new"
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) //nolint:gosec // as above
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes a rename durable. Some file systems have no such thing, and
// say so.
func syncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // as above
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, fs.ErrInvalid) {
		return err
	}
	return nil
}

func (osFiles) Lock(path string) (func() error, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // as above
	if err != nil {
		return nil, err
	}
	if err := lockFile(f); err != nil {
		f.Close()
		return nil, err
	}
	return f.Close, nil
}

func (osFiles) WAL() waltypes.VFS { return walfs.New() }
