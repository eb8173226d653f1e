package disk

import (
	"errors"
	"io/fs"
	"os"
)

// OS is the file system of the machine.
type OS struct{}

// MakeDir implements FS.
func (o OS) MakeDir(dir string) error { return MakeDirs(o, dir) }

// Mkdir implements DirMaker.
func (OS) Mkdir(dir string) (made bool, err error) {
	err = os.Mkdir(dir, 0o700)
	if err == nil {
		return true, nil
	}
	info, missing := os.Stat(dir)
	switch {
	case missing != nil:
		return false, err
	case info.IsDir():
		return false, nil
	default:
		return false, &os.PathError{Op: "mkdir", Path: dir, Err: errors.New("it is a file")}
	}
}

// List implements FS.
func (OS) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// Open implements FS.
func (OS) Open(path string) (File, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0) //nolint:gosec // G304: the data directory is the operator's choice
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// Create implements FS.
func (OS) Create(path string) (File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // G304: as above
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// Rename implements FS.
func (OS) Rename(from, to string) error { return os.Rename(from, to) }

// Remove implements FS.
func (OS) Remove(path string) error { return os.Remove(path) }

// SyncDir implements FS. Some file systems have no such thing, and say so.
func (OS) SyncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // G304: as above
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, fs.ErrInvalid) {
		return err
	}
	return nil
}

// Lock implements FS.
func (OS) Lock(path string) (func() error, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // G304: as above
	if err != nil {
		return nil, err
	}
	if err := lockFile(f); err != nil {
		f.Close()
		return nil, err
	}
	return func() error { return unlockFile(f) }, nil
}

// osFile is a file of the machine.
type osFile struct{ *os.File }

// Size implements File.
func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// grow makes the file at least this long.
func (f osFile) grow(size int64) error {
	if now, err := f.Size(); err != nil || now >= size {
		return err
	}
	return f.Truncate(size)
}
