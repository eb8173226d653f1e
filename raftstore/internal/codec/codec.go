// Package codec encodes the values that log entries, snapshots and calls
// between nodes are made of. One release reads the output of another one: the
// format of a value never changes, and each message begins with a version.
package codec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// ErrShort says that bytes ended before the value did, or went on after it.
var ErrShort = errors.New("truncated or malformed")

// ErrLongList says that a list has more elements than it may have.
var ErrLongList = errors.New("a list is too long")

// leastEntry is the least that an encoded entry takes: five lengths and numbers.
const leastEntry = 5

// FormatError says that bytes were written by a newer release.
type FormatError struct {
	what      string
	got, most byte
}

// Error names the version that was found and the remedy.
func (e *FormatError) Error() string {
	return fmt.Sprintf("%s has format version %d and this release reads up to %d: run the release that wrote it, or a newer one",
		e.what, e.got, e.most)
}

// Encoder appends values to B.
type Encoder struct{ B []byte }

// Byte appends one byte.
func (e *Encoder) Byte(v byte) { e.B = append(e.B, v) }

// Uint appends a number, in as many bytes as it needs.
func (e *Encoder) Uint(v uint64) { e.B = binary.AppendUvarint(e.B, v) }

// Text appends a string with its length.
func (e *Encoder) Text(v string) { e.Uint(uint64(len(v))); e.B = append(e.B, v...) }

// Bytes appends bytes with their length. Nil and empty are the same.
func (e *Encoder) Bytes(v []byte) { e.Uint(uint64(len(v))); e.B = append(e.B, v...) }

// Raw appends bytes without their length, which the reader must know.
func (e *Encoder) Raw(v []byte) { e.B = append(e.B, v...) }

// Duration appends a duration, which must not be negative.
func (e *Encoder) Duration(v time.Duration) { e.Uint(uint64(v)) }

// Bool appends a truth value.
func (e *Encoder) Bool(v bool) {
	if v {
		e.Byte(1)
	} else {
		e.Byte(0)
	}
}

// Entry appends an entry.
func (e *Encoder) Entry(v dcs.Entry) {
	e.Text(v.Key)
	e.Bytes(v.Value)
	e.Uint(uint64(v.Created))
	e.Uint(uint64(v.Modified))
	e.Text(string(v.Lease))
}

// Entries appends a list of entries.
func (e *Encoder) Entries(v []dcs.Entry) {
	e.Uint(uint64(len(v)))
	for i := range v {
		e.Entry(v[i])
	}
}

// Decoder takes values from a buffer. After the first fault every value is
// zero and Err returns the fault, so that callers check once, at the end. Byte
// slices that a Decoder returns alias the buffer.
type Decoder struct {
	b    []byte
	err  error
	most int // the most elements of a list; 0 is no bound
}

// NewDecoder returns a Decoder of b whose lists have at most that many elements;
// 0 is no bound.
func NewDecoder(b []byte, most int) *Decoder { return &Decoder{b: b, most: most} }

func (d *Decoder) fail() {
	if d.b = nil; d.err == nil {
		d.err = ErrShort
	}
}

// Byte reads one byte.
func (d *Decoder) Byte() byte {
	if len(d.b) == 0 {
		d.fail()
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

// Bool reads a truth value.
func (d *Decoder) Bool() bool { return d.Byte() != 0 }

// Uint reads a number.
func (d *Decoder) Uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

// List reads the number of elements of a list.
func (d *Decoder) List() int {
	n := d.Count()
	if d.most > 0 && n > d.most && d.err == nil {
		d.b, d.err = nil, fmt.Errorf("%w: %d elements, at most %d", ErrLongList, n, d.most)
		return 0
	}
	return n
}

// Count reads the length of a list whose elements take at least one byte
// each, so that damaged bytes cannot ask for more memory than they are.
func (d *Decoder) Count() int {
	n := d.Uint()
	if n > uint64(len(d.b)) {
		d.fail()
		return 0
	}
	return int(n)
}

// Bytes reads bytes with their length; none are nil.
func (d *Decoder) Bytes() []byte {
	n := d.Count()
	if n == 0 {
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

// Raw reads n bytes. The result is that long after a fault too.
func (d *Decoder) Raw(n int) []byte {
	if n > len(d.b) {
		d.fail()
		return make([]byte, n)
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

// Text reads a string with its length.
func (d *Decoder) Text() string { return string(d.Bytes()) }

// Revision reads a revision.
func (d *Decoder) Revision() dcs.Revision { return dcs.Revision(d.Uint()) }

// Duration reads a duration.
func (d *Decoder) Duration() time.Duration { return time.Duration(d.Uint()) }

// Lease reads the name of a lease.
func (d *Decoder) Lease() dcs.LeaseID { return dcs.LeaseID(d.Text()) }

// Version reads a version from 1 to most and returns it; any other one is a
// *FormatError that names the input.
func (d *Decoder) Version(what string, most byte) byte {
	got := d.Byte()
	if d.err == nil && (got == 0 || got > most) {
		d.b, d.err = nil, &FormatError{what: what, got: got, most: most}
	}
	return got
}

// Entry reads an entry.
func (d *Decoder) Entry() dcs.Entry {
	return dcs.Entry{
		Key: d.Text(), Value: d.Bytes(), Created: d.Revision(), Modified: d.Revision(), Lease: d.Lease(),
	}
}

// Entries reads a list of entries.
func (d *Decoder) Entries() []dcs.Entry {
	n := d.Count()
	if n > len(d.b)/leastEntry {
		d.fail()
		return nil
	}
	if n == 0 {
		return nil
	}
	out := make([]dcs.Entry, 0, n)
	for range n {
		out = append(out, d.Entry())
	}
	return out
}

// Err returns the first fault.
func (d *Decoder) Err() error { return d.err }

// End returns the first fault, or ErrShort when bytes are left over.
func (d *Decoder) End() error {
	if d.err == nil && len(d.b) > 0 {
		d.fail()
	}
	return d.err
}
