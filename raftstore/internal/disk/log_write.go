package disk

import (
	"fmt"

	"github.com/hashicorp/raft"
)

// writeSize is how much of a batch is encoded before it is written.
const writeSize = 1 << 20

// Append appends entries, which are durable when it returns without an error.
// The first one follows the last one of the log; an empty log takes any.
func (l *Log) Append(entries []*raft.Log) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if err := l.usable(); err != nil || len(entries) == 0 {
		return err
	}
	batch := l.batch[:0]
	for i, e := range entries {
		if e.Index == 0 || i > 0 && e.Index != entries[i-1].Index+1 {
			return fmt.Errorf("%w: entry %d is not the next one", ErrInvalid, e.Index)
		}
		batch = append(batch, change{kind: recordEntry, index: e.Index, term: e.Term, entry: e})
	}
	if next := l.index.last + 1; entries[0].Index != next && !l.index.isEmpty() {
		return fmt.Errorf("%w: entry %d is not the next one, which is %d", ErrInvalid, entries[0].Index, next)
	}
	err := l.commit(batch)
	clear(batch) // the entries belong to the caller
	l.batch = batch
	return err
}

// CutBack removes the entries from an index on.
func (l *Log) CutBack(from uint64) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if err := l.usable(); err != nil || from > l.index.last {
		return err
	}
	if from <= l.index.floor {
		return fmt.Errorf("%w: cut back to entry %d, which is no longer there", ErrInvalid, from)
	}
	return l.commit([]change{{kind: recordCutBack, index: from - 1, term: l.index.termOf(from - 1)}})
}

// CutFront removes entries up to an index. It keeps the newest ones within
// LogOptions.KeepEntries and KeepBytes, unless upTo is the last one.
func (l *Log) CutFront(upTo uint64) error {
	return l.cutFront(func() (*change, error) {
		x := &l.index
		switch {
		case upTo <= x.floor:
			return nil, nil
		case upTo > x.last:
			return nil, fmt.Errorf("%w: cut up to entry %d, the last one is %d", ErrInvalid, upTo, x.last)
		case upTo == x.last:
			return &change{kind: recordCutAll, index: upTo, term: x.term}, nil
		}
		floor := min(upTo, x.keep(l.o.KeepEntries, l.o.KeepBytes)-1)
		if floor <= x.floor {
			return nil, nil
		}
		return &change{kind: recordCutFront, index: floor, term: x.termOf(floor)}, nil
	})
}

// CutAll removes all entries. A snapshot up to the entry of that index and term
// takes their place.
func (l *Log) CutAll(index, term uint64) error {
	return l.cutFront(func() (*change, error) {
		return &change{kind: recordCutAll, index: index, term: term}, nil
	})
}

// cutFront commits the cut that choose returns, if it returns one, and removes
// the segments that are no longer needed.
func (l *Log) cutFront(choose func() (*change, error)) error {
	if err := l.commitCut(choose); err != nil {
		return err
	}
	// The entries are gone. A segment that cannot be removed now is removed
	// after the next cut.
	_ = l.removeUnneeded()
	return nil
}

func (l *Log) commitCut(choose func() (*change, error)) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	cut, err := choose()
	if err != nil || cut == nil {
		return err
	}
	if err := l.commit([]change{*cut}); err != nil {
		return err
	}
	l.takeUnneeded()
	return nil
}

// Join lets the log continue the newest snapshot, which ends at the entry of
// that index and term. It is called once, before Raft uses the log. A log that
// ends before the snapshot, or has another entry at its end, is emptied: the
// process ended between the installation of the snapshot and the cut.
func (l *Log) Join(index, term uint64) error {
	l.mu.RLock()
	floor := l.index.floor
	continues := l.index.continues(index, term)
	l.mu.RUnlock()
	switch {
	case index < floor:
		return missingBefore(l.o.Dir, index, floor)
	case !continues:
		return l.CutAll(index, term)
	default:
		return nil
	}
}

// missingBefore returns the error for a log that begins behind the snapshot that
// ends at index.
func missingBefore(dir string, index, floor uint64) error {
	return &DamageError{
		File: dir,
		What: fmt.Sprintf("the entries from %d to %d are missing: the newest snapshot ends before them", index+1, floor),
	}
}

// commit writes a batch of records and makes it durable. Nothing of it counts
// after an error.
func (l *Log) commit(batch []change) error {
	var size int64
	for i := range batch {
		c := &batch[i]
		n := c.payloadSize()
		if n > maxPayload {
			return fmt.Errorf("%w: entry %d has %d bytes, at most %d are possible", ErrInvalid, c.index, n, maxPayload)
		}
		c.size = padded(recordHeaderSize + n)
		size += c.size
	}
	if segmentHeaderSize+size > maxSegment {
		return fmt.Errorf("%w: a batch of %d bytes", ErrInvalid, size)
	}
	if err := l.makeRoom(size); err != nil {
		return l.fail(fmt.Errorf("the log was not made longer: %w", err))
	}
	tail := l.tail()
	at := tail.end
	for i := range batch {
		c := &batch[i]
		c.place = place{segment: tail.number, offset: at, size: c.size, term: c.term}
		at += c.size
	}
	if err := l.write(tail, batch); err != nil {
		return l.fail(fmt.Errorf("the log was not written: %w", err))
	}
	return l.publish(tail, batch, size)
}

// write writes the records of a batch behind the end of a segment.
func (l *Log) write(tail *segment, batch []change) error {
	seed := recordSeed(l.o.Life, tail.number)
	from := tail.end
	b := l.buf[:0]
	for i := range batch {
		isLast := i == len(batch)-1
		b = appendRecord(b, seed, &batch[i], tail.end, isLast)
		if !isLast && len(b) < writeSize {
			continue
		}
		if _, err := tail.file.WriteAt(b, from); err != nil {
			return err
		}
		from += int64(len(b))
		b = b[:0]
	}
	l.buf = b
	return tail.file.Sync()
}

// publish shows a batch, which is durable, to the readers.
func (l *Log) publish(tail *segment, batch []change, size int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range batch {
		if err := l.index.apply(&batch[i]); err != nil {
			// The callers check their data.
			l.damaged = fmt.Errorf("%w: %w", ErrInvalid, err)
			return l.damaged
		}
	}
	tail.end += size
	l.end = Position{tail.number, tail.end}
	l.written += uint64(size)
	l.marks.moved()
	return nil
}

// makeRoom sees to it that the last segment has room for so many bytes.
func (l *Log) makeRoom(bytes int64) error {
	tail := l.tail()
	switch {
	case tail.end+bytes <= tail.size:
		return nil
	case tail.isEmpty():
		if err := tail.file.Allocate(tail.end + bytes); err != nil {
			return err
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		tail.size = tail.end + bytes
		return nil
	}
	next, err := l.newSegment(tail, segmentHeaderSize+bytes)
	if err != nil {
		return err
	}
	// The rest of the segment holds nothing. Its room comes back, or not.
	shorter := tail.file.Truncate(tail.end) == nil
	l.mu.Lock()
	defer l.mu.Unlock()
	if shorter {
		tail.size = tail.end
	}
	l.segments = append(l.segments, next)
	l.marks.hurry()
	return nil
}

// newSegment makes the segment behind previous. It has room for so many bytes.
// In the place of a directory that was unmounted it must make nothing.
func (l *Log) newSegment(previous *segment, bytes int64) (*segment, error) {
	same, err := l.o.Files.Open(segmentPath(l.o.Dir, previous.number))
	if err != nil {
		return nil, err
	}
	same.Close()
	if err := l.o.Owned(); err != nil {
		return nil, fmt.Errorf("the directory is not the one that was opened: %w", err)
	}
	h := segmentHeader{life: l.o.Life, number: previous.number + 1, previous: previous.end, logRange: l.index.logRange}
	size := max(l.o.SegmentBytes, bytes)
	f, err := createSegment(l.o.Files, l.o.Dir, &h, size)
	if err != nil {
		return nil, err
	}
	return &segment{h, f, segmentHeaderSize, size}, nil
}

// takeUnneeded sets the segments aside that hold no entry of the log. The one
// with the last record stays, because a mark names it.
func (l *Log) takeUnneeded() {
	l.mu.Lock()
	defer l.mu.Unlock()
	oldest := l.index.live(min(l.tail().number, max(l.end.Segment, 1)))
	n := 0
	for l.segments[n].number < oldest {
		n++
	}
	l.unneeded = append(l.unneeded, l.segments[:n]...)
	l.segments = append([]*segment(nil), l.segments[n:]...)
}

// removeUnneeded removes the segments that were set aside.
func (l *Log) removeUnneeded() error {
	l.removing.Lock()
	defer l.removing.Unlock()
	l.mu.RLock()
	list := l.unneeded
	l.mu.RUnlock()
	for _, s := range list {
		s.file.Close()
		if err := removeFile(l.o.Files, segmentPath(l.o.Dir, s.number)); err != nil {
			return err
		}
		l.mu.Lock()
		l.unneeded = l.unneeded[1:]
		l.mu.Unlock()
	}
	if len(list) == 0 {
		return nil
	}
	return l.o.Files.SyncDir(l.o.Dir)
}
