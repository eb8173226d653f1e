package state

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/codec"
)

const (
	// snapshotChunk is how much is written to a snapshot at a time.
	snapshotChunk = 256 << 10
	// maxRecord is more than any record has: a value, its key and a reason.
	maxRecord = 2 * MaxCommand
)

// recordWriter writes records, each with its length before it.
type recordWriter struct {
	to     *bufio.Writer
	record codec.Encoder
	count  uint64
	err    error
}

func newRecordWriter(to io.Writer) *recordWriter {
	return &recordWriter{to: bufio.NewWriterSize(to, snapshotChunk)}
}

// begin begins a record with these bytes. The caller appends the rest of it.
func (w *recordWriter) begin(kind ...byte) *codec.Encoder {
	w.record.B = append(w.record.B[:0], kind...)
	return &w.record
}

// end writes the record.
func (w *recordWriter) end() {
	w.count++
	if w.err != nil {
		return
	}
	var length [binary.MaxVarintLen64]byte
	if _, w.err = w.to.Write(binary.AppendUvarint(length[:0], uint64(len(w.record.B)))); w.err == nil {
		_, w.err = w.to.Write(w.record.B)
	}
}

func (w *recordWriter) flush() error {
	if w.err != nil {
		return w.err
	}
	return w.to.Flush()
}

// recordReader reads the output of a recordWriter.
type recordReader struct {
	from   *bufio.Reader
	record []byte
	count  uint64
}

func newRecordReader(from io.Reader) *recordReader {
	return &recordReader{from: bufio.NewReaderSize(from, snapshotChunk)}
}

// next returns the next record. It is valid until the one after it is read.
func (r *recordReader) next() (*codec.Decoder, error) {
	length, err := binary.ReadUvarint(r.from)
	if err != nil {
		return nil, cutOff(err)
	}
	if length > maxRecord {
		return nil, fmt.Errorf("record %d has %d bytes, more than any record has", r.count, length)
	}
	if uint64(cap(r.record)) < length {
		r.record = make([]byte, length)
	}
	r.record = r.record[:length]
	if _, err := io.ReadFull(r.from, r.record); err != nil {
		return nil, cutOff(err)
	}
	r.count++
	return codec.NewDecoder(r.record, 0), nil
}

// last checks the record that must come last.
func (r *recordReader) last(d *codec.Decoder, count uint64) error {
	if got := d.Uint(); d.Err() == nil && got != count {
		return fmt.Errorf("%d records, and %d were written", count, got)
	}
	if err := d.End(); err != nil {
		return err
	}
	if _, err := r.from.ReadByte(); !errors.Is(err, io.EOF) {
		if err == nil {
			err = errors.New("bytes after the last record")
		}
		return err
	}
	return nil
}

// cutOff returns the error for a snapshot that ends within a record.
func cutOff(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// detached returns e with a value of its own, so that e does not keep the
// buffer that it was decoded from.
func detached(e dcs.Entry) dcs.Entry {
	e.Value = bytes.Clone(e.Value)
	return e
}
