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

// encodeHead returns the beginning of a file with that magic and description.
func encodeHead(magic string, m any) ([]byte, error) {
	meta, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	if len(meta) > maxSnapshotMeta {
		return nil, fmt.Errorf("a description of %d bytes, at most %d are possible", len(meta), maxSnapshotMeta)
	}
	b := append([]byte(magic), 0, 0, 0, 0)
	binary.LittleEndian.PutUint32(b[len(magic):], uint32(len(meta)))
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
	length := binary.LittleEndian.AppendUint32(nil, uint32(len(data))) // at most snapshotChunk
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

// chunkWriter writes the content of a file in chunks, and the end of the file.
type chunkWriter struct {
	to    io.Writer
	sums  snapshotSums
	chunk []byte // the chunk that is being filled, with its head
	size  int64  // of the file so far
	err   error  // the first error
}

const chunkHead = 8

// newChunkWriter returns a writer that has written head.
func newChunkWriter(to io.Writer, head []byte) *chunkWriter {
	w := &chunkWriter{
		to:    to,
		sums:  newSnapshotSums(binary.LittleEndian.Uint32(head[len(head)-4:])),
		chunk: make([]byte, chunkHead, chunkHead+snapshotChunk),
	}
	w.append(head)
	return w
}

// append writes b at the end of the file.
func (w *chunkWriter) append(b []byte) {
	if w.err == nil {
		_, w.err = w.to.Write(b)
		w.size += int64(len(b))
	}
}

// Write implements io.Writer.
func (w *chunkWriter) Write(p []byte) (n int, err error) {
	for len(p) > 0 && w.err == nil {
		part := p[:min(len(p), cap(w.chunk)-len(w.chunk))]
		w.chunk = append(w.chunk, part...)
		p = p[len(part):]
		n += len(part)
		if len(w.chunk) == cap(w.chunk) {
			w.flush()
		}
	}
	return n, w.err
}

// flush writes the chunk that is being filled.
func (w *chunkWriter) flush() {
	data := w.chunk[chunkHead:]
	if len(data) == 0 {
		return
	}
	binary.LittleEndian.PutUint32(w.chunk, uint32(len(data))) // at most snapshotChunk
	binary.LittleEndian.PutUint32(w.chunk[4:], w.sums.add(data))
	w.append(w.chunk)
	w.chunk = w.chunk[:chunkHead]
}

// finish writes the rest, and the end of the file.
func (w *chunkWriter) finish() error {
	w.flush()
	w.append(w.sums.trailer())
	return w.err
}

// chunkReader reads the content of a file that a chunkWriter wrote, and checks
// all of the file. It returns io.EOF only after the end of the file was found
// right, and a *DamageError otherwise.
type chunkReader struct {
	from io.Reader
	path string
	at   int64
	sums snapshotSums
	buf  []byte
	rest []byte // of the chunk in buf
	err  error
}

// newChunkReader reads the head of a file and decodes its description into m. The
// last byte of magic is a version.
func newChunkReader(from io.Reader, path, magic string, m any) (*chunkReader, error) {
	r := &chunkReader{from: from, path: path, buf: make([]byte, snapshotPrefix)}
	head, err := r.take(snapshotPrefix)
	if err != nil {
		return nil, err
	}
	version := len(magic) - 1
	switch {
	case !bytes.HasPrefix(head, []byte(magic[:version])):
		return nil, r.damage(0, "it does not begin as such a file does")
	case head[version] != magic[version]:
		return nil, r.damage(int64(version), fmt.Sprintf("it has version %d, and this release reads version %d: use the release that wrote it", head[version], magic[version]))
	}
	length := binary.LittleEndian.Uint32(head[len(magic):])
	if length > maxSnapshotMeta {
		return nil, r.damage(int64(len(magic)), "the description is too long")
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
	if err := json.Unmarshal(meta, m); err != nil {
		return nil, r.damage(int64(snapshotPrefix), "the description cannot be read: "+err.Error())
	}
	r.sums = newSnapshotSums(sum)
	return r, nil
}

func (r *chunkReader) damage(offset int64, what string) error {
	return &DamageError{File: r.path, Offset: offset, What: what}
}

// take reads the next n bytes into buf. They are valid until it is called again.
func (r *chunkReader) take(n int) ([]byte, error) {
	b := r.buf[:n]
	if got, err := io.ReadFull(r.from, b); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = r.damage(r.at+int64(got), "the file is cut off")
		}
		return nil, err
	}
	r.at += int64(n)
	return b, nil
}

// Read implements io.Reader.
func (r *chunkReader) Read(p []byte) (int, error) {
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
func (r *chunkReader) next() error {
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
func (r *chunkReader) finish(begin int64) error {
	b, err := r.take(snapshotTrailer - 4)
	if err != nil {
		return err
	}
	if !bytes.Equal(b, r.sums.trailer()[4:]) {
		return r.damage(begin, "the checksum of the whole is wrong")
	}
	var more [1]byte
	if n, err := io.ReadFull(r.from, more[:]); n > 0 {
		return r.damage(r.at, "the file goes on behind its end")
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	return io.EOF
}

// snapshotReader reads a snapshot file.
type snapshotReader struct {
	*chunkReader
	meta snapshotMeta
}

// newSnapshotReader reads the head of a file of that size.
func newSnapshotReader(from io.ReaderAt, path string, size int64) (*snapshotReader, error) {
	r := &snapshotReader{}
	var err error
	r.chunkReader, err = newChunkReader(io.NewSectionReader(from, 0, size), path, snapshotMagic, &r.meta)
	return r, err
}
