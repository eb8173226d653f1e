package raftstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// durableLog is what raft-wal offers.
type durableLog interface {
	raft.LogStore
	raft.MonotonicLogStore
	Close() error
}

// logStore is the node's log. It measures every durable
// write, one under way too: Raft's own main loop hangs with a disk that does,
// so whoever watches the disk must be able to ask here.
type logStore struct {
	inner durableLog
	mark  *highWater // nil while the log is only looked at

	mu      sync.Mutex
	begun   map[uint64]dcs.Instant // writes under way
	writes  uint64                 // begun ever
	done    uint64
	last    time.Duration
	mean    time.Duration
	longest time.Duration
}

var (
	_ raft.LogStore          = (*logStore)(nil)
	_ raft.MonotonicLogStore = (*logStore)(nil)
)

// openLogStore opens the log in d. Whatever is wrong with its files is damage
// of that directory: a log that cannot be trusted is never started on.
func openLogStore(d *dataDir) (_ *logStore, err error) {
	dir := d.logDir()
	// The log's index is read through a memory map: a file that was cut short
	// is a fault there, not an error.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = d.damagedLog(fmt.Errorf("the files cannot be read: %v", p))
		}
	}()
	if err := metaIsFree(filepath.Join(dir, metadb.FileName)); err != nil {
		return nil, openError(dcs.ErrUnavailable, "the log in %s is in use, by a node of this process that did not end: start this process anew: %w", dir, err)
	}
	meta := &metadb.BoltMetaDB{}
	defer func() {
		if err != nil {
			meta.Close()
		}
	}()
	w, err := wal.Open(dir,
		wal.WithLogger(d.log.Named("wal")),
		wal.WithMetaStore(meta),
		wal.WithSegmentSize(segmentSize),
		wal.WithSegmentFiler(newSegments(dir, d.wal)),
	)
	switch {
	case err == nil:
		return newLogStore(walLog{w, meta}), nil
	case errors.Is(err, fs.ErrPermission):
		return nil, openError(dcs.ErrUnavailable, "the log in %s can not be opened: make its files readable and writable by this user: %w", dir, err)
	default:
		return nil, d.damagedLog(err)
	}
}

// walLog closes the log's index too, which raft-wal leaves open, and locked.
type walLog struct {
	*wal.WAL
	meta *metadb.BoltMetaDB
}

// Close implements durableLog.
func (l walLog) Close() error { return errors.Join(l.WAL.Close(), l.meta.Close()) }

// metaIsFree reports errDirInUse when the log's index is locked. The index
// waits for its lock for ever; no other process can hold it, since the data
// directory is ours, but something of this one may.
func metaIsFree(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0) //nolint:gosec // the data directory is the operator's choice
	if err != nil {
		return nil //nolint:nilerr // absent on a first start; all else is told by the opening itself
	}
	defer f.Close()
	if err := lockFile(f); errors.Is(err, errDirInUse) {
		return err
	}
	return nil
}

func newLogStore(inner durableLog) *logStore {
	return &logStore{inner: inner, begun: map[uint64]dcs.Instant{}}
}

// begin notes that a durable write begins.
func (s *logStore) begin() (id uint64, at dcs.Instant) {
	at = dcs.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	s.begun[s.writes] = at
	return s.writes, at
}

func (s *logStore) end(id uint64, at dcs.Instant) {
	took := at.Elapsed()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.begun, id)
	s.done++
	s.last = took
	s.longest = max(s.longest, took)
	if s.done == 1 {
		s.mean = took
		return
	}
	s.mean += (took - s.mean) / 8
}

// write measures one durable write.
func (s *logStore) write(f func() error) error {
	id, at := s.begin()
	defer s.end(id, at)
	return f()
}

// stats returns what was measured; Pending grows while a write hangs.
func (s *logStore) stats() DiskStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := DiskStatus{Writes: s.writes, Last: s.last, Mean: s.mean, Max: s.longest}
	for _, at := range s.begun {
		d.Pending = max(d.Pending, at.Elapsed())
	}
	return d
}

// FirstIndex implements raft.LogStore.
func (s *logStore) FirstIndex() (uint64, error) { return s.inner.FirstIndex() }

// LastIndex implements raft.LogStore.
func (s *logStore) LastIndex() (uint64, error) { return s.inner.LastIndex() }

// GetLog implements raft.LogStore. raft-wal still finds an entry that was cut
// off at the front while its file is open.
func (s *logStore) GetLog(index uint64, log *raft.Log) error {
	first, err := s.inner.FirstIndex()
	if err != nil {
		return err
	}
	if index < first {
		return raft.ErrLogNotFound
	}
	return s.inner.GetLog(index, log)
}

// StoreLog implements raft.LogStore.
func (s *logStore) StoreLog(log *raft.Log) error { return s.StoreLogs([]*raft.Log{log}) }

// StoreLogs implements raft.LogStore.
func (s *logStore) StoreLogs(logs []*raft.Log) error {
	err := s.write(func() error { return s.inner.StoreLogs(logs) })
	if err == nil && s.mark != nil && len(logs) > 0 {
		last := logs[len(logs)-1]
		s.mark.stored(last.Index, last.Term)
	}
	return err
}

// DeleteRange implements raft.LogStore.
func (s *logStore) DeleteRange(least, most uint64) error {
	if err := s.lowerMark(least, most); err != nil {
		return err
	}
	return s.write(func() error { return s.inner.DeleteRange(least, most) })
}

// lowerMark lowers the mark before the end of the log is cut off.
func (s *logStore) lowerMark(least, most uint64) error {
	last, err := s.inner.LastIndex()
	if err != nil || s.mark == nil || most < last {
		return err
	}
	var before raft.Log
	if first, err := s.inner.FirstIndex(); err != nil {
		return err
	} else if least > first {
		if err := s.inner.GetLog(least-1, &before); err != nil {
			return err
		}
	}
	// A log that is cut off as a whole goes on behind a snapshot.
	return s.mark.lower(before.Index, before.Term)
}

// IsMonotonic implements raft.MonotonicLogStore.
func (s *logStore) IsMonotonic() bool { return s.inner.IsMonotonic() }

// Close closes the log's files, after a last mark.
func (s *logStore) Close() error {
	if s.mark == nil {
		return s.inner.Close()
	}
	return errors.Join(s.mark.close(), s.inner.Close())
}
