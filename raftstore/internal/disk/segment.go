package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// The log is a row of segments, files that are named by their number. A segment
// begins with a header, which says how the segment before it ended.
const (
	segmentMagic      = "HFRLOG\x00\x02"
	segmentHeaderSize = 96
	segmentSuffix     = ".seg"

	// maxSegment bounds a segment, because records hold offsets of 32 bits.
	maxSegment = 1 << 31
)

// logRange says which entries a log holds: those from floor+1 to last. floor
// and floorTerm are index and term of the last entry that was cut off at the
// front, which a snapshot holds.
type logRange struct {
	floor, floorTerm uint64
	last, term       uint64
}

func (r logRange) isEmpty() bool { return r.last == r.floor }

// segmentHeader is the header of a segment.
type segmentHeader struct {
	life     Life
	number   uint64
	previous int64 // where the valid part of the segment before it ends, or 0
	logRange       // when the segment was made
}

func (h *segmentHeader) encode() []byte {
	b := make([]byte, 0, segmentHeaderSize)
	b = append(b, segmentMagic...)
	b = append(b, h.life[:]...)
	for _, n := range []uint64{h.number, uint64(h.previous), h.floor, h.floorTerm, h.last, h.term} {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	b = b[:segmentHeaderSize]
	binary.LittleEndian.PutUint32(b[segmentHeaderSize-4:], crc32.Checksum(b[:segmentHeaderSize-4], castagnoli))
	return b
}

// decodeSegmentHeader reports false if b does not hold a header.
func decodeSegmentHeader(b []byte) (segmentHeader, bool) {
	var h segmentHeader
	if len(b) < segmentHeaderSize || string(b[:8]) != segmentMagic ||
		binary.LittleEndian.Uint32(b[segmentHeaderSize-4:]) != crc32.Checksum(b[:segmentHeaderSize-4], castagnoli) {
		return h, false
	}
	word := func(i int) uint64 { return binary.LittleEndian.Uint64(b[16+8*i:]) }
	copy(h.life[:], b[8:])
	h.number, h.previous = word(0), int64(word(1))
	h.floor, h.floorTerm, h.last, h.term = word(2), word(3), word(4), word(5)
	return h, h.last >= h.floor && h.previous >= 0 && h.previous <= maxSegment
}

// recordSeed returns the seed of the checksums in a segment.
func recordSeed(life Life, number uint64) uint32 {
	return crc32.Checksum(binary.LittleEndian.AppendUint64(life[:], number), castagnoli)
}

func segmentPath(dir string, number uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%016x%s", number, segmentSuffix))
}

// segmentNumbers returns the numbers of the segments in dir, in order. A
// directory that is absent has none.
func segmentNumbers(files FS, dir string) ([]uint64, error) {
	names, err := files.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var numbers []uint64
	for _, name := range names {
		hex, ok := strings.CutSuffix(name, segmentSuffix)
		n, err := strconv.ParseUint(hex, 16, 64)
		if ok && err == nil && n > 0 && name == filepath.Base(segmentPath(dir, n)) {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// createSegment makes a segment that is durable with its header when it
// returns. A file of that name is one that an earlier attempt left, in which
// nothing was stored.
func createSegment(files FS, dir string, h *segmentHeader, size int64) (_ File, err error) {
	path := segmentPath(dir, h.number)
	if err := removeFile(files, path); err != nil {
		return nil, err
	}
	f, err := files.Create(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
			_ = files.Remove(path) // to give its room back
		}
	}()
	if err := f.Allocate(size); err != nil {
		return nil, err
	}
	if _, err := f.WriteAt(h.encode(), 0); err != nil {
		return nil, err
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	return f, files.SyncDir(dir)
}
