package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/hashicorp/raft"
)

// A record of the log begins at a multiple of recordAlign and consists of
//
//	crc      uint32  of the seed, the offset, the fields below, and the payload
//	length   uint32  of the payload, which is filled up with zeros
//	kind     uint8
//	flags    uint8
//	check    uint16  of the seed, the offset, and this header
//	batch    uint32  where the batch of the record begins
//	payload
//
// The seed binds a record to its segment and to the directory, so that it is
// valid in one place only. Everything before batch was durable when the record
// was written: a valid record whose batch lies behind an invalid one proves that
// the invalid one was damaged, and was not torn by a crash.
const (
	recordHeaderSize = 16
	recordAlign      = 8
	entryHeaderSize  = 32
	cutSize          = 16

	// maxPayload bounds an entry, with the bytes that the log adds to it. The largest
	// command is about half as long.
	maxPayload = 2 << 20

	// flagLast marks the last record of a batch. A batch without it was torn.
	flagLast = 1
)

// A recordKind is the effect of a record on the log.
type recordKind uint8

const (
	recordEntry    recordKind = 1 + iota // appends an entry
	recordCutBack                        // removes the entries behind an index
	recordCutFront                       // removes the entries up to an index
	recordCutAll                         // removes all entries: the next one may have any index
)

// A change is the effect of one record, and its place.
type change struct {
	kind        recordKind
	index, term uint64 // of the entry; of a cut, the last that stays, or goes
	entry       *raft.Log
	place
}

// place is where a record is.
type place struct {
	segment uint64
	offset  int64
	size    int64 // header and padding included
	term    uint64
}

// ErrInvalid says that the caller asked for something that the log cannot do.
// Nothing was changed, and asking again fails again.
var ErrInvalid = errors.New("invalid use of the log")

// recordHeader is a decoded record header.
type recordHeader struct {
	kind   recordKind
	last   bool
	batch  int64
	length int
}

// size returns the size of the whole record.
func (h recordHeader) size() int64 { return padded(recordHeaderSize + int64(h.length)) }

func padded(n int64) int64 { return (n + recordAlign - 1) &^ (recordAlign - 1) }

// payloadSize returns how long the payload of c's record is.
func (c *change) payloadSize() int64 {
	if c.kind == recordEntry {
		return entryHeaderSize + int64(len(c.entry.Extensions)) + int64(len(c.entry.Data))
	}
	return cutSize
}

// appendRecord appends c's record, which is written at c.offset, to b.
func appendRecord(b []byte, seed uint32, c *change, batch int64, last bool) []byte {
	start := len(b)
	b = append(b, make([]byte, recordHeaderSize)...)
	if c.kind == recordEntry {
		b = appendEntry(b, c.entry)
	} else {
		b = binary.LittleEndian.AppendUint64(b, c.index)
		b = binary.LittleEndian.AppendUint64(b, c.term)
	}
	length := len(b) - start - recordHeaderSize
	for len(b)-start < int(c.size) {
		b = append(b, 0)
	}
	r := b[start:]
	binary.LittleEndian.PutUint32(r[4:], uint32(length)) // at most maxPayload
	r[8] = byte(c.kind)
	if last {
		r[9] = flagLast
	}
	binary.LittleEndian.PutUint32(r[12:], uint32(batch)) // a segment is shorter than maxSegment
	binary.LittleEndian.PutUint16(r[10:], headerCheck(r, seed, c.offset))
	binary.LittleEndian.PutUint32(r, recordSum(r, seed, c.offset))
	return b
}

func appendEntry(b []byte, e *raft.Log) []byte {
	var appended int64
	if !e.AppendedAt.IsZero() {
		appended = e.AppendedAt.UnixNano()
	}
	b = binary.LittleEndian.AppendUint64(b, e.Index)
	b = binary.LittleEndian.AppendUint64(b, e.Term)
	b = binary.LittleEndian.AppendUint64(b, uint64(appended))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(e.Extensions))) // at most maxPayload
	b = append(b, byte(e.Type), 0, 0, 0)
	b = append(b, e.Extensions...)
	return append(b, e.Data...)
}

// decodeEntry reads an entry, whose slices are parts of p.
func decodeEntry(p []byte, e *raft.Log) error {
	if len(p) < entryHeaderSize {
		return fmt.Errorf("an entry of %d bytes", len(p))
	}
	extensions := binary.LittleEndian.Uint32(p[24:])
	body := p[entryHeaderSize:]
	if uint64(extensions) > uint64(len(body)) || p[29]|p[30]|p[31] != 0 {
		return errors.New("an entry whose lengths do not agree")
	}
	*e = raft.Log{
		Index: binary.LittleEndian.Uint64(p),
		Term:  binary.LittleEndian.Uint64(p[8:]),
		Type:  raft.LogType(p[28]),
	}
	if appended := binary.LittleEndian.Uint64(p[16:]); appended != 0 {
		e.AppendedAt = time.Unix(0, int64(appended))
	}
	if extensions > 0 {
		e.Extensions = body[:extensions:extensions]
	}
	if data := body[extensions:]; len(data) > 0 {
		e.Data = data[:len(data):len(data)]
	}
	return nil
}

// decodeChange returns the effect of a valid record. The slices of an entry are
// parts of payload.
func decodeChange(h recordHeader, payload []byte) (change, error) {
	c := change{kind: h.kind}
	if h.kind == recordEntry {
		c.entry = &raft.Log{}
		err := decodeEntry(payload, c.entry)
		c.index, c.term = c.entry.Index, c.entry.Term
		return c, err
	}
	if len(payload) != cutSize {
		return c, fmt.Errorf("a cut of %d bytes", len(payload))
	}
	c.index = binary.LittleEndian.Uint64(payload)
	c.term = binary.LittleEndian.Uint64(payload[8:])
	return c, nil
}

// decodeHeader reads the header of the record at offset. It reports false if
// there is none.
func decodeHeader(b []byte, seed uint32, offset int64) (recordHeader, bool) {
	if len(b) < recordHeaderSize {
		return recordHeader{}, false
	}
	h := recordHeader{
		kind:   recordKind(b[8]),
		last:   b[9] == flagLast,
		batch:  int64(binary.LittleEndian.Uint32(b[12:])),
		length: int(binary.LittleEndian.Uint32(b[4:])),
	}
	ok := h.kind >= recordEntry && h.kind <= recordCutAll && b[9] <= flagLast &&
		h.length >= cutSize && h.length <= maxPayload &&
		h.batch >= segmentHeaderSize && h.batch <= offset && h.batch%recordAlign == 0
	// This check makes it cheap to look for a header at every offset.
	return h, ok && binary.LittleEndian.Uint16(b[10:]) == headerCheck(b, seed, offset)
}

// isRecord reports whether b, which decodeHeader accepted, is a whole and valid
// record.
func isRecord(b []byte, seed uint32, offset int64) bool {
	return binary.LittleEndian.Uint32(b) == recordSum(b, seed, offset)
}

// headerCheck returns the check of the record header in b.
func headerCheck(b []byte, seed uint32, offset int64) uint16 {
	sum := crc32.Update(startSum(seed, offset), castagnoli, b[4:10])
	return uint16(crc32.Update(sum, castagnoli, b[12:recordHeaderSize]))
}

// recordSum returns the checksum of the record in b.
func recordSum(b []byte, seed uint32, offset int64) uint32 {
	return crc32.Update(startSum(seed, offset), castagnoli, b[4:])
}

// startSum returns the value at which the sums of the record at offset start.
// The same bytes never have the same sum at two offsets.
func startSum(seed uint32, offset int64) uint32 {
	return seed ^ uint32(offset) // a segment is shorter than maxSegment
}
