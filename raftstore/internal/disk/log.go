package disk

import (
	"errors"
	"fmt"
	"sync"

	"github.com/hashicorp/raft"
)

// ErrClosed says that the log was closed.
var ErrClosed = errors.New("the log is closed")

const (
	defaultSegmentBytes = 16 << 20
	defaultKeepEntries  = 8192
	defaultKeepBytes    = 64 << 20
)

// LogOptions say how a log is opened. Files, Dir and Life are mandatory.
type LogOptions struct {
	Files FS
	Dir   string
	// Life is the life of the data directory. Files of another one are refused.
	Life Life
	// Mark is the end that was durable for certain when it was saved last.
	Mark LogEnd
	// SaveMark makes an end of the log durable, outside the log. OpenLog calls
	// it, then a goroutine of the log, soon after the end moved and again after
	// an error, and at last Close. nil saves nothing.
	SaveMark func(LogEnd) error
	// Check is called for each entry that is read when the log is opened. Its
	// error is a damage. The slices of the entry are valid until it returns.
	Check func(*raft.Log) error
	// Owned returns an error unless the directory is still the one of this
	// node. It is called before a segment is made. nil asks nothing.
	Owned func() error
	// SegmentBytes is the size of a segment; default 16 MiB. One with a larger
	// batch is larger.
	SegmentBytes int64
	// KeepEntries and KeepBytes bound the newest entries that CutFront keeps
	// although they may go; default 8192 and 64 MiB.
	KeepEntries uint64
	KeepBytes   int64
}

func (o LogOptions) withDefaults() LogOptions {
	if o.SaveMark == nil {
		o.SaveMark = func(LogEnd) error { return nil }
	}
	if o.Owned == nil {
		o.Owned = func() error { return nil }
	}
	if o.SegmentBytes == 0 {
		o.SegmentBytes = defaultSegmentBytes
	}
	if o.KeepEntries == 0 {
		o.KeepEntries = defaultKeepEntries
	}
	if o.KeepBytes == 0 {
		o.KeepBytes = defaultKeepBytes
	}
	return o
}

// A Log is the log of a Raft node. Its methods may be called concurrently;
// those that change it wait for each other.
//
// After an error of the disk the log refuses every change until Repair
// succeeds. Nothing of the change that met the error counts, and the data that was
// there before is still there.
type Log struct {
	o LogOptions

	writing sync.Mutex // held by one change, or by a repair
	buf     []byte
	batch   []change

	removing sync.Mutex // held while segments are removed

	mu       sync.RWMutex // guards the fields below; not held during an operation of the disk
	index    logIndex
	segments []*segment // without gaps; the last one is written to
	unneeded []*segment // to be removed
	end      Position   // behind the last record
	repairs  uint64     // how often the files were opened again
	written  uint64     // bytes of records, since the log was opened
	failed   error      // set until a repair succeeds
	damaged  error      // set for good
	closed   bool

	marks *markSaver
}

// segment is an open segment.
type segment struct {
	segmentHeader
	file File
	end  int64 // of the valid part
	size int64 // of the file
}

func (s *segment) isEmpty() bool { return s.end == segmentHeaderSize }

// OpenLog opens the log in a directory, which it makes where it is absent. It
// removes the remains of a crash behind the end; the notes list that. The errors are
// those of ScanLog.
func OpenLog(o LogOptions) (*Log, []LogNote, error) {
	o = o.withDefaults()
	scan, err := ScanLog(o.Files, o.Dir, o.Life, o.Mark, o.Check)
	if err != nil {
		return nil, nil, err
	}
	l := &Log{o: o, index: scan.index, end: scan.End.Position}
	if err := l.open(scan); err != nil {
		l.closeFiles()
		return nil, nil, err
	}
	end := l.End()
	if err := o.SaveMark(end); err != nil {
		l.closeFiles()
		return nil, nil, fmt.Errorf("the end of the log was not saved: %w", err)
	}
	l.marks = startMarks(o.SaveMark, l.End, end)
	return l, scan.Notes, nil
}

// open opens the files and makes their content durable.
func (l *Log) open(scan *LogScan) error {
	if len(scan.segments) == 0 {
		return l.create(scan)
	}
	for _, at := range scan.segments {
		f, err := l.o.Files.Open(segmentPath(l.o.Dir, at.number))
		if err != nil {
			return err
		}
		l.segments = append(l.segments, &segment{at.segmentHeader, f, at.end, at.size})
	}
	tail := l.tail()
	if scan.torn {
		if err := tail.file.Truncate(tail.end); err != nil {
			return err
		}
		if err := tail.file.Allocate(tail.size); err != nil {
			return err
		}
	}
	if err := l.rewrite(tail); err != nil {
		return err
	}
	for _, n := range scan.remove {
		if err := removeFile(l.o.Files, segmentPath(l.o.Dir, n)); err != nil {
			return err
		}
	}
	if err := l.o.Files.SyncDir(l.o.Dir); err != nil {
		return err
	}
	l.takeUnneeded()
	return l.removeUnneeded()
}

// create makes the first segment.
func (l *Log) create(scan *LogScan) error {
	if err := l.o.Files.MakeDir(l.o.Dir); err != nil {
		return err
	}
	h := segmentHeader{life: l.o.Life, number: 1}
	f, err := createSegment(l.o.Files, l.o.Dir, &h, l.o.SegmentBytes)
	if err != nil {
		return err
	}
	l.segments = []*segment{{h, f, segmentHeaderSize, l.o.SegmentBytes}}
	return nil
}

// rewrite writes the records of the last segment behind the mark again. An earlier
// process may have written it without making it durable, and where that failed,
// the system no longer knows that the file differs from the disk.
func (l *Log) rewrite(tail *segment) error {
	var from int64
	if l.o.Mark.Segment == tail.number {
		from = l.o.Mark.Offset
	}
	b := make([]byte, min(windowSize, tail.end-from))
	for from < tail.end {
		b = b[:min(int64(cap(b)), tail.end-from)]
		if _, err := tail.file.ReadAt(b, from); err != nil {
			return err
		}
		if _, err := tail.file.WriteAt(b, from); err != nil {
			return err
		}
		from += int64(len(b))
	}
	return tail.file.Sync()
}

func (l *Log) tail() *segment { return l.segments[len(l.segments)-1] }

// End returns the durable end of the log.
func (l *Log) End() LogEnd {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return LogEnd{l.end, l.index.last, l.index.term}
}

// First returns the index of the first entry, or 0 if there is none.
func (l *Log) First() uint64 {
	first, _ := l.bounds()
	return first
}

// Last returns the index of the last entry, or 0 if there is none.
func (l *Log) Last() uint64 {
	_, last := l.bounds()
	return last
}

func (l *Log) bounds() (first, last uint64) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.index.bounds()
}

// Bytes returns how much room the log takes on the disk.
func (l *Log) Bytes() int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var n int64
	for _, list := range [][]*segment{l.segments, l.unneeded} {
		for _, s := range list {
			n += s.size
		}
	}
	return n
}

// Written returns how many bytes were appended since the log was opened.
func (l *Log) Written() uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.written
}

// Close saves the mark and closes the files.
func (l *Log) Close() error {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	l.mu.Unlock()
	err := l.marks.close()
	l.closeFiles()
	return err
}

func (l *Log) closeFiles() {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, list := range [][]*segment{l.segments, l.unneeded} {
		for _, s := range list {
			s.file.Close()
		}
	}
}

// usable returns why the log cannot be changed now.
func (l *Log) usable() error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	switch {
	case l.closed:
		return ErrClosed
	case l.damaged != nil:
		return l.damaged
	case l.failed != nil:
		return fmt.Errorf("the log was not repaired yet: %w", l.failed)
	default:
		return nil
	}
}

// fail notes an error of the disk, after which the content of the files that
// were written is unknown.
func (l *Log) fail(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed == nil {
		l.failed = err
	}
	return err
}
