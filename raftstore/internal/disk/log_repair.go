package disk

import (
	"errors"
	"fmt"
	"io/fs"
)

// Repair makes the log usable after an error of the disk: it opens the files
// again, starts a new segment, and verifies everything that was durable. It
// does nothing if there is nothing to repair. After a *DamageError the log is
// lost; after any other error the caller should try again later.
//
// A part whose write failed is left behind: the header of the new segment
// says where the valid part of the one before it ends. Nothing is synced a
// second time, since the system may take pages for written that are not.
func (l *Log) Repair() error {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.mu.RLock()
	closed, damaged, failed := l.closed, l.damaged, l.failed
	l.mu.RUnlock()
	switch {
	case closed:
		return ErrClosed
	case damaged != nil:
		return damaged
	case failed == nil:
		return nil
	}
	err := l.repair()
	var damage *DamageError
	if errors.As(err, &damage) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.damaged = err
	}
	return err
}

func (l *Log) repair() (err error) {
	old := l.segments
	if len(old) > 1 && old[len(old)-1].isEmpty() {
		// It is made again: a fault that stays would leave a row of them. Some
		// systems remove no file that is open.
		old[len(old)-1].file.Close()
		old = old[:len(old)-1]
	}
	fresh := make([]*segment, 0, len(old)+1)
	defer func() {
		if err != nil {
			for _, s := range fresh {
				s.file.Close()
			}
		}
	}()
	for _, s := range old {
		// An absent file is no damage: a directory that is not mounted has none.
		f, err := l.o.Files.Open(segmentPath(l.o.Dir, s.number))
		if err != nil {
			return err
		}
		fresh = append(fresh, &segment{s.segmentHeader, f, s.end, s.size})
	}
	if err := l.verify(fresh, verifyHeader); err != nil {
		return err
	}
	tail := fresh[len(fresh)-1]
	if tail.file.Truncate(tail.end) == nil {
		tail.size = tail.end
	}
	next, err := l.newSegment(tail, 0)
	if err != nil {
		return err
	}
	fresh = append(fresh, next)
	if err := l.verify(fresh[:len(fresh)-1], verifyRecords); err != nil {
		return err
	}
	l.replace(fresh)
	return nil
}

// replace goes on with files that were opened again.
func (l *Log) replace(fresh []*segment) {
	l.mu.Lock()
	old := l.segments
	l.segments = fresh
	l.repairs++
	l.failed = nil
	l.mu.Unlock()
	for _, s := range old {
		s.file.Close()
	}
}

// verify checks segments that were opened again.
func (l *Log) verify(list []*segment, check func(*segmentReader, *segment) error) error {
	for _, s := range list {
		size, err := s.file.Size()
		if err != nil {
			return err
		}
		s.file.DropCache() // reads return the content of the disk
		path := segmentPath(l.o.Dir, s.number)
		if err := check(newSegmentReader(s.file, path, l.o.Life, s.number, size), s); err != nil {
			return err
		}
	}
	return nil
}

func verifyHeader(r *segmentReader, s *segment) error {
	b, err := r.read(0, segmentHeaderSize)
	if err != nil {
		return err
	}
	if h, ok := decodeSegmentHeader(b); !ok || h != s.segmentHeader {
		return r.damage(0, "the header differs from the written one")
	}
	return nil
}

func verifyRecords(r *segmentReader, s *segment) error {
	end, bad, err := r.batches(s.end, nil, func([]change, int64) error { return nil })
	if err == nil && end != s.end {
		err = r.damage(bad, "no valid record, though the log was durable up to offset %d", s.end)
	}
	return err
}

// OwnedBy returns a function for LogOptions.Owned. It checks that the identity
// in the data directory dir is that of life.
func OwnedBy(files FS, dir string, life Life) func() error {
	return func() error {
		i, err := readIdentity(files, dir)
		if err == nil && i.Life != life {
			err = fmt.Errorf("%s is of life %v, this node of %v", dir, i.Life, life)
		}
		return err
	}
}

// removeFile removes a file that may be gone already.
func removeFile(files FS, path string) error {
	if err := files.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
