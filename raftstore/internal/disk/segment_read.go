package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/raft"
)

// segmentReader reads the records of one segment.
type segmentReader struct {
	path   string
	number uint64
	seed   uint32
	size   int64 // of the file
	window
}

func newSegmentReader(r io.ReaderAt, path string, life Life, number uint64, size int64) *segmentReader {
	return &segmentReader{
		path:   path,
		number: number,
		seed:   recordSeed(life, number),
		size:   size,
		window: window{r: r, chunk: int(min(windowSize, size))},
	}
}

func (s *segmentReader) damage(offset int64, format string, args ...any) error {
	return &DamageError{File: s.path, Offset: offset, What: fmt.Sprintf(format, args...)}
}

// record returns the record at offset. It reports false if there is none that
// is valid and ends at limit or before.
func (s *segmentReader) record(offset, limit int64) (h recordHeader, payload []byte, ok bool, err error) {
	b, err := s.read(offset, recordHeaderSize)
	if err != nil {
		return h, nil, false, err
	}
	h, ok = decodeHeader(b, s.seed, offset)
	if !ok || offset+h.size() > limit {
		return h, nil, false, nil
	}
	if b, err = s.read(offset, int(h.size())); err != nil {
		return h, nil, false, err
	}
	if int64(len(b)) < h.size() || !isRecord(b, s.seed, offset) {
		return h, nil, false, nil
	}
	return h, b[recordHeaderSize : recordHeaderSize+h.length], true, nil
}

// batches passes each whole batch before limit to visit, and each entry to
// check if there is one. It returns the end of the last whole batch, and the
// first offset at which no valid record begins.
func (s *segmentReader) batches(limit int64, check func(*raft.Log) error, visit func([]change, int64) error) (end, bad int64, err error) {
	var batch []change
	end = segmentHeaderSize
	for at := end; ; {
		h, payload, ok, err := s.record(at, limit)
		// A record of an earlier batch is one that was cut off here before.
		if err != nil || !ok || h.batch < end {
			return end, at, err
		}
		if h.batch > end {
			return end, at, s.damage(at, "the batch before has no end")
		}
		c, err := decodeChange(h, payload)
		if err == nil && c.entry != nil && check != nil {
			err = check(c.entry)
		}
		if err != nil {
			return end, at, s.damage(at, "a record that cannot be used: %v", err)
		}
		c.entry = nil
		c.place = place{segment: s.number, offset: at, size: h.size(), term: c.term}
		batch = append(batch, c)
		at += h.size()
		if h.last {
			if err := visit(batch, at); err != nil {
				return end, at, err
			}
			end, batch = at, batch[:0]
		}
	}
}

// provesDurable looks behind p, where no valid record begins, for a record that
// was written when everything up to p was durable.
func (s *segmentReader) provesDurable(p int64) (bool, error) {
	for at := padded(p + 1); at+recordHeaderSize <= s.size; {
		h, _, ok, err := s.record(at, s.size)
		if err != nil {
			return false, err
		}
		switch {
		case ok && h.batch > p:
			return true, nil
		case ok:
			at += h.size()
		default:
			at += recordAlign
		}
	}
	return false, nil
}

// isZero reports whether the file holds only zeros from offset on.
func (s *segmentReader) isZero(offset int64) (bool, error) {
	for offset < s.size {
		b, err := s.read(offset, int(min(windowSize, s.size-offset)))
		if err != nil {
			return false, err
		}
		if !bytes.Equal(b, zeros[:len(b)]) {
			return false, nil
		}
		if len(b) == 0 {
			break // shorter than it was
		}
		offset += int64(len(b))
	}
	return true, nil
}

// windowSize is how much of a file is read at once.
const windowSize = 256 << 10

var zeros [windowSize]byte

// window reads a file in large parts.
type window struct {
	r     io.ReaderAt
	chunk int // read at once, at least
	at    int64
	b     []byte
}

// read returns n bytes from offset on, fewer where the file ends. They are
// valid until the next call.
func (w *window) read(offset int64, n int) ([]byte, error) {
	if offset < w.at || offset+int64(n) > w.at+int64(len(w.b)) {
		if cap(w.b) < n {
			w.b = make([]byte, max(n, w.chunk))
		}
		got, err := w.r.ReadAt(w.b[:cap(w.b)], offset)
		if err != nil && !errors.Is(err, io.EOF) {
			w.b = w.b[:0]
			return nil, err
		}
		w.at, w.b = offset, w.b[:got]
	}
	have := w.b[offset-w.at:]
	return have[:min(n, len(have))], nil
}
