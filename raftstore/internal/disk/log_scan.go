package disk

import (
	"fmt"

	"github.com/hashicorp/raft"
)

// A LogNote describes a part of a file of the log that belongs to no entry:
// the remains of a crash or a repair. It is for the operator.
type LogNote struct {
	File   string
	Offset int64
	Bytes  int64 // from Offset on
	What   string
}

// A LogScan is the content of the log's files. Nothing is changed to make one.
type LogScan struct {
	End         LogEnd
	First, Last uint64 // the entries; 0 if there are none
	Notes       []LogNote

	index    logIndex
	segments []scannedSegment // those that are needed, in order
	remove   []uint64         // those that are not
	torn     bool             // the last segment must be cut at its end
}

// scannedSegment is a segment whose records were read.
type scannedSegment struct {
	segmentHeader
	end, size int64 // of the valid part, and of the file
}

// logScanner reads the log.
type logScanner struct {
	LogScan
	files FS
	dir   string
	life  Life
	mark  LogEnd
	check func(*raft.Log) error
	seen  bool // a batch ends where mark is
}

// ScanLog reads the log in dir, which belongs to life and was durable up to
// mark. check is called for each entry, if it is not nil; the slices of the
// entry are valid until it returns. The error is a *DamageError where the log
// is damaged or check fails, a *ShortError where it ends, undamaged, before
// mark, else that of an operation that failed.
func ScanLog(files FS, dir string, life Life, mark LogEnd, check func(*raft.Log) error) (*LogScan, error) {
	s := &logScanner{files: files, dir: dir, life: life, mark: mark, check: check}
	numbers, err := segmentNumbers(files, dir)
	if err != nil {
		return nil, err
	}
	if err := s.headers(numbers); err != nil {
		return nil, err
	}
	if len(s.segments) > 0 {
		if err := s.records(); err != nil {
			return nil, err
		}
	}
	if s.End.Compare(s.mark.Position) < 0 {
		return nil, s.short()
	}
	s.First, s.Last = s.index.bounds()
	return &s.LogScan, nil
}

func (s *logScanner) short() error { return &ShortError{Dir: s.dir, Have: s.End, Had: s.mark} }

func (s *logScanner) note(number uint64, offset, bytes int64, what string) {
	s.Notes = append(s.Notes, LogNote{segmentPath(s.dir, number), offset, bytes, what})
}

// headers reads the headers of the segments that the log consists of: the last
// one and those before it without a gap.
func (s *logScanner) headers(numbers []uint64) error {
	start := len(numbers)
	for start > 0 && (start == len(numbers) || numbers[start-1]+1 == numbers[start]) {
		start--
	}
	for _, n := range numbers[:start] {
		s.remove = append(s.remove, n)
		s.note(n, 0, 0, "a segment that is no longer needed")
	}
	row := numbers[start:]
	for i, n := range row {
		isLast := i == len(row)-1
		h, size, err := s.header(n, isLast, i > 0 || len(numbers) == 1 && n == 1)
		if err != nil {
			return err
		}
		if h == nil {
			s.remove = append(s.remove, n)
			s.note(n, 0, size, "a segment without a header: the process ended while it was made")
			continue
		}
		s.segments = append(s.segments, scannedSegment{*h, segmentHeaderSize, size})
	}
	return nil
}

// header reads the header of a segment. It returns nil if that is the last one
// and nothing was ever stored in it.
func (s *logScanner) header(number uint64, isLast, isNext bool) (*segmentHeader, int64, error) {
	var h *segmentHeader
	var size int64
	err := s.open(number, func(r *segmentReader) error {
		size = r.size
		b, err := r.read(0, segmentHeaderSize)
		if err != nil {
			return err
		}
		got, ok := decodeSegmentHeader(b)
		switch {
		case ok && (got.number != number || got.life != s.life):
			return r.damage(0, "the segment belongs in another place")
		case ok:
			h = &got
			return nil
		}
		found, err := r.provesDurable(0)
		if err != nil {
			return err
		}
		if !isLast || !isNext || found || s.mark.Segment == number {
			return r.damage(0, "the header of the segment is invalid")
		}
		return nil
	})
	return h, size, err
}

func (s *logScanner) open(number uint64, read func(*segmentReader) error) error {
	path := segmentPath(s.dir, number)
	f, err := s.files.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return err
	}
	if size > maxSegment {
		return &DamageError{File: path, Offset: maxSegment, What: "the segment is longer than one can be"}
	}
	return read(newSegmentReader(f, path, s.life, number, size))
}

// records reads the records of all segments.
func (s *logScanner) records() error {
	first := s.segments[0]
	s.index = logIndex{logRange: first.logRange, base: first.last}
	s.End = LogEnd{Index: first.last, Term: first.term}
	if first.number > 1 {
		s.End.Position = Position{first.number - 1, first.previous}
	}
	for i := range s.segments {
		if err := s.open(s.segments[i].number, func(r *segmentReader) error { return s.segment(r, i) }); err != nil {
			return err
		}
	}
	if s.index.base > s.index.floor {
		return &DamageError{
			File: segmentPath(s.dir, first.number-1),
			What: fmt.Sprintf("the file with the entries from %d to %d is missing", s.index.floor+1, s.index.base),
		}
	}
	return nil
}

// segment reads the records of the i-th segment.
func (s *logScanner) segment(r *segmentReader, i int) error {
	at := &s.segments[i]
	if at.logRange != s.index.logRange {
		return r.damage(0, "the segment does not continue the one before it")
	}
	isLast := i == len(s.segments)-1
	limit := r.size
	if !isLast {
		limit = s.segments[i+1].previous
	}
	end, bad, err := r.batches(limit, s.check, func(batch []change, end int64) error { return s.batch(r, batch, end) })
	if err != nil {
		return err
	}
	at.end = end
	if isLast {
		err = s.tail(r, end, bad)
	} else {
		err = s.sealed(r, end, bad, limit)
	}
	if err != nil {
		return err
	}
	if s.mark.Segment == r.number && !s.seen && (!isLast || s.mark.Compare(s.End.Position) <= 0) {
		return r.damage(s.mark.Offset, "no record ends where the log was durable")
	}
	return nil
}

func (s *logScanner) batch(r *segmentReader, batch []change, end int64) error {
	for i := range batch {
		if err := s.index.apply(&batch[i]); err != nil {
			return r.damage(batch[i].offset, "%v", err)
		}
	}
	s.End = LogEnd{Position{r.number, end}, s.index.last, s.index.term}
	if s.End.Position == s.mark.Position {
		s.seen = true
		if s.End != s.mark {
			return r.damage(end, "the log has entry %d of term %d here, not entry %d of term %d", s.index.last, s.index.term, s.mark.Index, s.mark.Term)
		}
	}
	return nil
}

// sealed judges the end of a segment that has a successor, which says that it
// ends at limit.
func (s *logScanner) sealed(r *segmentReader, end, bad, limit int64) error {
	if end != limit {
		return r.damage(bad, "no valid record, though the segment goes on to offset %d", limit)
	}
	zero, err := r.isZero(limit)
	if err == nil && !zero {
		s.note(r.number, limit, r.size-limit, "records that failed when they were written; they are ignored")
	}
	return err
}

// tail judges the end of the last segment. bad is the first offset at which no
// valid record begins.
func (s *logScanner) tail(r *segmentReader, end, bad int64) error {
	zero, err := r.isZero(bad)
	if err != nil {
		return err
	}
	if s.mark.Segment > r.number || s.mark.Segment == r.number && bad < s.mark.Offset {
		if zero {
			return s.short()
		}
		return r.damage(bad, "no valid record, though the log was durable up to %v", s.mark.Position)
	}
	found := false
	if !zero {
		if found, err = r.provesDurable(bad); err != nil {
			return err
		}
	}
	switch {
	case found:
		return r.damage(bad, "no valid record, though later ones show that it was durable")
	case !zero || bad > end:
		s.torn = true
		s.note(r.number, end, r.size-end, "records that were being written when the machine stopped; they are removed")
	}
	return nil
}

// bounds returns the first and the last entry, or 0 and 0.
func (x *logIndex) bounds() (first, last uint64) {
	if x.isEmpty() {
		return 0, 0
	}
	return x.floor + 1, x.last
}
