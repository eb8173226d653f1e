package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// errShort says that bytes ended before the value did, or went on after it.
var errShort = errors.New("truncated or malformed")

// errLongList says that a list has more elements than it may have.
var errLongList = errors.New("a list is too long")

// leastEntry is the least that an encoded entry takes: five lengths and numbers.
const leastEntry = 5

// formatError says that bytes were written by a newer release.
type formatError struct {
	what      string
	got, most byte
}

func (e *formatError) Error() string {
	return fmt.Sprintf("%s has format version %d and this release reads up to %d: run the release that wrote it, or a newer one",
		e.what, e.got, e.most)
}

// encoder appends values to a buffer in the format that log entries,
// snapshots and calls between nodes share.
type encoder struct{ b []byte }

func (e *encoder) byte(v byte)              { e.b = append(e.b, v) }
func (e *encoder) uint(v uint64)            { e.b = binary.AppendUvarint(e.b, v) }
func (e *encoder) string(v string)          { e.uint(uint64(len(v))); e.b = append(e.b, v...) }
func (e *encoder) bytes(v []byte)           { e.uint(uint64(len(v))); e.b = append(e.b, v...) }
func (e *encoder) raw(v []byte)             { e.b = append(e.b, v...) }
func (e *encoder) duration(v time.Duration) { e.uint(uint64(v)) } //nolint:gosec // durations here are never negative

func (e *encoder) bool(v bool) {
	if v {
		e.byte(1)
	} else {
		e.byte(0)
	}
}

func (e *encoder) entry(v dcs.Entry) {
	e.string(v.Key)
	e.bytes(v.Value)
	e.uint(uint64(v.Created))
	e.uint(uint64(v.Modified))
	e.string(string(v.Lease))
}

func (e *encoder) entries(v []dcs.Entry) {
	e.uint(uint64(len(v)))
	for i := range v {
		e.entry(v[i])
	}
}

// decoder takes values from a buffer. After the first fault every value is
// zero and err is set, so that callers check once, at the end. Byte slices it
// returns alias the buffer.
type decoder struct {
	b    []byte
	err  error
	most int // the most elements of a list; 0 is no bound
}

func (d *decoder) fail() {
	if d.b = nil; d.err == nil {
		d.err = errShort
	}
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail()
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

func (d *decoder) bool() bool { return d.byte() != 0 }

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

// list reads the number of elements of a list.
func (d *decoder) list() int {
	n := d.count()
	if d.most > 0 && n > d.most && d.err == nil {
		d.b, d.err = nil, fmt.Errorf("%w: %d elements, at most %d", errLongList, n, d.most)
		return 0
	}
	return n
}

// count reads the length of a list whose elements take at least one byte
// each, so that damaged bytes can not ask for more memory than they are.
func (d *decoder) count() int {
	n := d.uint()
	if n > uint64(len(d.b)) {
		d.fail()
		return 0
	}
	return int(n) //nolint:gosec // bounded by a slice's length
}

func (d *decoder) bytes() []byte {
	n := d.count()
	if n == 0 {
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) raw(n int) []byte {
	if n > len(d.b) {
		d.fail()
		return make([]byte, n)
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) string() string              { return string(d.bytes()) }
func (d *decoder) revision() dcs.Revision      { return dcs.Revision(d.uint()) }
func (d *decoder) duration() time.Duration     { return time.Duration(d.uint()) } //nolint:gosec // written by duration
func (d *decoder) lease() dcs.LeaseID          { return dcs.LeaseID(d.string()) }
func (d *decoder) version(what string, m byte) { d.expect(what, d.byte(), m) }

func (d *decoder) expect(what string, got, most byte) {
	if d.err == nil && (got == 0 || got > most) {
		d.b, d.err = nil, &formatError{what: what, got: got, most: most}
	}
}

func (d *decoder) entry() dcs.Entry {
	return dcs.Entry{
		Key: d.string(), Value: d.bytes(), Created: d.revision(), Modified: d.revision(), Lease: d.lease(),
	}
}

func (d *decoder) entries() []dcs.Entry {
	n := d.count()
	if n > len(d.b)/leastEntry {
		d.fail()
		return nil
	}
	if n == 0 {
		return nil
	}
	out := make([]dcs.Entry, 0, n)
	for range n {
		out = append(out, d.entry())
	}
	return out
}

// end returns the first fault, or errShort when bytes are left over.
func (d *decoder) end() error {
	if d.err == nil && len(d.b) > 0 {
		d.fail()
	}
	return d.err
}
