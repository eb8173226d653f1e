package disk

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/hashicorp/raft"
)

// A snapshot file consists of
//
//	magic    8 bytes
//	length   uint32 of meta
//	meta     JSON of snapshotMeta
//	crc      uint32 of all before it
//
// then chunks of the content, each of them
//
//	length   uint32, not 0
//	crc      uint32 of length and data
//	data
//
// and at its end
//
//	0        uint32, in the place of a length
//	size     uint64 of the content
//	count    uint64 of the chunks
//	crc      uint32 of the head's crc, each chunk's crc in order, size and count
//
// Integers are little-endian. The last crc binds each chunk to its file and its
// place there. A file without its end is not valid: it gets its name when it is
// complete.
const (
	snapshotMagic   = "HFSNAP\x00\x02"
	snapshotPrefix  = len(snapshotMagic) + 4
	snapshotChunk   = 256 << 10 // content of one chunk, at most
	snapshotTrailer = 24

	// maxSnapshotMeta is more than any configuration takes.
	maxSnapshotMeta = 1 << 20
)

// snapshotMeta is the description of a snapshot in its file.
type snapshotMeta struct {
	Version            raft.SnapshotVersion
	Index              uint64
	Term               uint64
	Configuration      raft.Configuration
	ConfigurationIndex uint64
	Incarnation        string
}

// raft returns m as Raft describes a snapshot.
func (m *snapshotMeta) raft(size int64) raft.SnapshotMeta {
	return raft.SnapshotMeta{
		Version: m.Version, ID: snapshotID(m.Index, m.Term), Index: m.Index, Term: m.Term,
		Configuration: m.Configuration, ConfigurationIndex: m.ConfigurationIndex, Size: size,
	}
}

// snapshotID returns the name of a snapshot, by which snapshots sort.
func snapshotID(index, term uint64) string { return fmt.Sprintf("%016x-%016x", index, term) }

// encodeSnapshotHead returns the beginning of a file.
func encodeSnapshotHead(m *snapshotMeta) ([]byte, error) {
	meta, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	if len(meta) > maxSnapshotMeta {
		return nil, fmt.Errorf("a configuration of %d bytes is too large for a snapshot", len(meta))
	}
	b := append([]byte(snapshotMagic), 0, 0, 0, 0)
	binary.LittleEndian.PutUint32(b[len(snapshotMagic):], uint32(len(meta))) //nolint:gosec // bounded above
	b = append(b, meta...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli)), nil
}

// snapshotSums are the checksums of a file as far as it was written or read.
type snapshotSums struct {
	chain uint32 // of the head's and each chunk's
	count uint64
	size  uint64 // of the content
}

func newSnapshotSums(head uint32) snapshotSums {
	return snapshotSums{chain: crc32.Checksum(binary.LittleEndian.AppendUint32(nil, head), castagnoli)}
}

// add takes the next chunk and returns its checksum.
func (s *snapshotSums) add(data []byte) uint32 {
	length := binary.LittleEndian.AppendUint32(nil, uint32(len(data))) //nolint:gosec // at most snapshotChunk
	sum := crc32.Update(crc32.Checksum(length, castagnoli), castagnoli, data)
	s.chain = crc32.Update(s.chain, castagnoli, binary.LittleEndian.AppendUint32(nil, sum))
	s.count++
	s.size += uint64(len(data))
	return sum
}

// trailer returns the end of a file.
func (s *snapshotSums) trailer() []byte {
	b := make([]byte, 4, snapshotTrailer)
	b = binary.LittleEndian.AppendUint64(b, s.size)
	b = binary.LittleEndian.AppendUint64(b, s.count)
	return binary.LittleEndian.AppendUint32(b, crc32.Update(s.chain, castagnoli, b))
}

// snapshotReader reads the content of a snapshot file and checks all of the
// file. It returns io.EOF only after the end of the file was found right, and a
// *DamageError otherwise.
type snapshotReader struct {
	meta snapshotMeta

	from io.ReaderAt
	path string
	at   int64
	end  int64 // the size of the file
	sums snapshotSums
	buf  []byte
	rest []byte // of the chunk in buf
	err  error
}

// newSnapshotReader reads the head of a file of that size.
func newSnapshotReader(from io.ReaderAt, path string, size int64) (*snapshotReader, error) {
	r := &snapshotReader{from: from, path: path, end: size, buf: make([]byte, snapshotPrefix)}
	head, err := r.take(snapshotPrefix)
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(head, []byte(snapshotMagic)) {
		return nil, r.damage(0, "it does not begin as a snapshot of this version does")
	}
	length := binary.LittleEndian.Uint32(head[len(snapshotMagic):])
	if length > maxSnapshotMeta {
		return nil, r.damage(int64(len(snapshotMagic)), "the description is too long")
	}
	sum := crc32.Checksum(head, castagnoli)
	r.buf = make([]byte, max(snapshotChunk, length+4))
	rest, err := r.take(int(length) + 4)
	if err != nil {
		return nil, err
	}
	meta := rest[:length]
	sum = crc32.Update(sum, castagnoli, meta)
	if sum != binary.LittleEndian.Uint32(rest[length:]) {
		return nil, r.damage(0, "the checksum of the description is wrong")
	}
	if err := json.Unmarshal(meta, &r.meta); err != nil {
		return nil, r.damage(int64(snapshotPrefix), "the description cannot be read: "+err.Error())
	}
	r.sums = newSnapshotSums(sum)
	return r, nil
}

func (r *snapshotReader) damage(offset int64, what string) error {
	return &DamageError{File: r.path, Offset: offset, What: what}
}

// take reads the next n bytes into buf. They are valid until it is called again.
func (r *snapshotReader) take(n int) ([]byte, error) {
	if int64(n) > r.end-r.at {
		return nil, r.damage(r.end, "the file is cut off")
	}
	b := r.buf[:n]
	if got, err := r.from.ReadAt(b, r.at); got < n {
		if errors.Is(err, io.EOF) {
			err = r.damage(r.at+int64(got), "the file is cut off")
		}
		return nil, err
	}
	r.at += int64(n)
	return b, nil
}

// Read implements io.Reader.
func (r *snapshotReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 && r.err == nil {
		r.err = r.next()
	}
	if len(r.rest) == 0 {
		return 0, r.err
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// next reads the next chunk, or the end.
func (r *snapshotReader) next() error {
	begin := r.at
	b, err := r.take(4)
	if err != nil {
		return err
	}
	length := binary.LittleEndian.Uint32(b)
	switch {
	case length == 0:
		return r.finish(begin)
	case length > snapshotChunk:
		return r.damage(begin, "a chunk is too long")
	}
	if b, err = r.take(4); err != nil {
		return err
	}
	want := binary.LittleEndian.Uint32(b)
	data, err := r.take(int(length))
	if err != nil {
		return err
	}
	if r.sums.add(data) != want {
		return r.damage(begin, "the checksum of a chunk is wrong")
	}
	r.rest = data
	return nil
}

// finish checks the end of the file, which begins at begin.
func (r *snapshotReader) finish(begin int64) error {
	b, err := r.take(snapshotTrailer - 4)
	if err != nil {
		return err
	}
	if !bytes.Equal(b, r.sums.trailer()[4:]) {
		return r.damage(begin, "the checksum of the whole is wrong")
	}
	if r.at != r.end {
		return r.damage(r.at, "the file goes on behind its end")
	}
	return io.EOF
}
