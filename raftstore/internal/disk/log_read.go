package disk

import (
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/raft"
)

// Get reads an entry. The error is raft.ErrLogNotFound where the log does not
// hold it, a *DamageError where it differs from the write, else that of an
// operation that failed, which a repair may cure.
func (l *Log) Get(index uint64, entry *raft.Log) error {
	for {
		at, file, repairs, err := l.find(index)
		if err != nil {
			return err
		}
		err = l.o.readEntry(file, at, index, entry)
		if err == nil {
			return nil
		}
		// The file may have been closed under the read, by a cut or a repair.
		again, _, since, gone := l.find(index)
		if gone != nil {
			return gone
		}
		if again != at || since != repairs {
			continue
		}
		var damage *DamageError
		if errors.As(err, &damage) {
			return err
		}
		return l.fail(fmt.Errorf("entry %d was not read: %w", index, err))
	}
}

// find returns where an entry is.
func (l *Log) find(index uint64) (place, File, uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return place{}, nil, 0, ErrClosed
	}
	at, ok := l.index.place(index)
	if !ok {
		return place{}, nil, 0, raft.ErrLogNotFound
	}
	return at, l.segments[at.segment-l.segments[0].number].file, l.repairs, nil
}

func (o *LogOptions) readEntry(file File, at place, index uint64, entry *raft.Log) error {
	b := make([]byte, at.size)
	if n, err := file.ReadAt(b, at.offset); err != nil && (n < len(b) || !errors.Is(err, io.EOF)) {
		if !errors.Is(err, io.EOF) {
			return err
		}
		return o.damage(at, "the file was cut")
	}
	seed := recordSeed(o.Life, at.segment)
	h, ok := decodeHeader(b, seed, at.offset)
	if !ok || h.size() != at.size || !isRecord(b, seed, at.offset) || h.kind != recordEntry {
		return o.damage(at, "entry %d differs from the written one", index)
	}
	if err := decodeEntry(b[recordHeaderSize:recordHeaderSize+h.length], entry); err != nil {
		return o.damage(at, "entry %d cannot be used: %v", index, err)
	}
	if entry.Index != index {
		return o.damage(at, "entry %d is in the place of entry %d", entry.Index, index)
	}
	return nil
}

func (o *LogOptions) damage(at place, format string, args ...any) error {
	return &DamageError{File: segmentPath(o.Dir, at.segment), Offset: at.offset, What: fmt.Sprintf(format, args...)}
}

// ReadLog passes the entries that follow a snapshot, which ends at the entry of
// that index and term, to visit. There are none if the log does not continue the
// snapshot. Nothing is changed. The log is that of o.Files, o.Dir, o.Life, o.Mark
// and o.Check, and its last entry may be one that was never committed.
func ReadLog(o LogOptions, index, term uint64, visit func(*raft.Log) error) (end LogEnd, err error) {
	scan, err := ScanLog(o.Files, o.Dir, o.Life, o.Mark, o.Check)
	if err != nil {
		return end, err
	}
	x := &scan.index
	if index < x.floor {
		return end, missingBefore(o.Dir, index, x.floor)
	}
	if !x.continues(index, term) {
		return scan.End, nil
	}
	segments := map[uint64]File{}
	defer func() {
		for _, f := range segments {
			f.Close()
		}
	}()
	for at := index + 1; at <= x.last; at++ {
		p, ok := x.place(at)
		if !ok {
			return end, missingBefore(o.Dir, at-1, at)
		}
		if segments[p.segment] == nil {
			f, err := o.Files.Open(segmentPath(o.Dir, p.segment))
			if err != nil {
				return end, err
			}
			segments[p.segment] = f
		}
		var e raft.Log
		if err := o.readEntry(segments[p.segment], p, at, &e); err != nil {
			return end, err
		}
		if err := visit(&e); err != nil {
			return end, err
		}
	}
	return scan.End, nil
}
