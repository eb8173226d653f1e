package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"
	"sync"
)

// The layout of one copy in a mirror. It is one sector, which a disk writes
// whole or not at all, and which is there from the start: a write in its place
// needs no room.
const (
	mirrorSize   = 512
	mirrorMagic  = "HFMIRR\x00\x01"
	mirrorName   = 8  // offset of the name
	mirrorSeq    = 16 // offset of the sequence
	mirrorLength = 24 // offset of the payload's length
	mirrorData   = 28 // offset of the payload
	mirrorSum    = mirrorSize - 4

	// MaxMirror is the longest payload of a Mirror.
	MaxMirror = mirrorSum - mirrorData
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A Mirror keeps a short payload in two files, path.a and path.b. One of them
// may be damaged or missing: the other has the payload. Its methods may be
// called concurrently.
//
// Store writes one file after the other and returns when both are durable. So
// the payload of the last Store that returned is in both, and one that did not
// return is in at most one that is not yet replaced.
type Mirror struct {
	files FS
	path  string

	mu      sync.Mutex
	copies  [2]*mirrorCopy
	seq     uint64 // of payload
	tried   uint64 // by the last Store
	payload []byte
	closed  bool
}

// mirrorCopy is one of the files.
type mirrorCopy struct {
	path   string
	file   File   // nil if it must be opened
	sector []byte // that is durable; nil if that is not known
}

func mirrorPath(path string, i int) string { return path + [2]string{".a", ".b"}[i] }

// encodeMirror returns the sector for a payload.
func encodeMirror(path string, seq uint64, payload []byte) []byte {
	sector := make([]byte, mirrorSize)
	copy(sector, mirrorMagic)
	copy(sector[mirrorName:mirrorSeq], filepath.Base(path))
	binary.LittleEndian.PutUint64(sector[mirrorSeq:], seq)
	binary.LittleEndian.PutUint32(sector[mirrorLength:], uint32(len(payload))) // at most MaxMirror
	copy(sector[mirrorData:], payload)
	binary.LittleEndian.PutUint32(sector[mirrorSum:], crc32.Checksum(sector[:mirrorSum], castagnoli))
	return sector
}

// decodeMirror returns the payload of a sector. It accepts exactly the
// output of encodeMirror.
func decodeMirror(path string, sector []byte) (seq uint64, payload []byte, err error) {
	if len(sector) != mirrorSize {
		return 0, nil, fmt.Errorf("it has %d bytes, not %d", len(sector), mirrorSize)
	}
	if binary.LittleEndian.Uint32(sector[mirrorSum:]) != crc32.Checksum(sector[:mirrorSum], castagnoli) {
		return 0, nil, errors.New("the checksum does not match the content")
	}
	seq = binary.LittleEndian.Uint64(sector[mirrorSeq:])
	length := binary.LittleEndian.Uint32(sector[mirrorLength:])
	if length > MaxMirror {
		return 0, nil, errors.New("the content is of another version")
	}
	payload = sector[mirrorData : mirrorData+length]
	if !bytes.Equal(sector, encodeMirror(path, seq, payload)) {
		return 0, nil, errors.New("the content belongs in another file or is of another version")
	}
	return seq, payload, nil
}

// MirrorState is the content of a mirror's files.
type MirrorState struct {
	Seq     uint64
	Payload []byte
	Bad     error // of the file that is damaged or missing, if one is

	source int // index of the file with the payload
	both   bool
}

// ReadMirror reads a mirror without a change to its files. The error is
// fs.ErrNotExist if both files are missing, and a *DamageError if neither can
// be used.
func ReadMirror(files FS, path string) (MirrorState, error) {
	var seqs [2]uint64
	var payloads [2][]byte
	var errs [2]error
	for i := range errs {
		seqs[i], payloads[i], errs[i] = readMirrorCopy(files, path, i)
	}
	switch {
	case errs[0] == nil && errs[1] == nil:
		source := 0
		if seqs[1] > seqs[0] {
			source = 1
		}
		if seqs[0] == seqs[1] && !bytes.Equal(payloads[0], payloads[1]) {
			return MirrorState{}, &DamageError{File: mirrorPath(path, 0), Offset: mirrorData, What: "the second file of the pair has other content"}
		}
		return MirrorState{Seq: seqs[source], Payload: payloads[source], source: source, both: true}, nil
	case errs[0] == nil:
		return MirrorState{Seq: seqs[0], Payload: payloads[0], Bad: errs[1]}, nil
	case errs[1] == nil:
		return MirrorState{Seq: seqs[1], Payload: payloads[1], Bad: errs[0], source: 1}, nil
	}
	return MirrorState{}, worst(errs[0], errs[1])
}

// worst returns the error that decides when neither file can be read: one that
// may pass, then damage, then that both are missing.
func worst(a, b error) error {
	rank := func(err error) int {
		var damage *DamageError
		switch {
		case errors.As(err, &damage):
			return 1
		case errors.Is(err, fs.ErrNotExist):
			return 0
		}
		return 2
	}
	if rank(b) > rank(a) {
		return b
	}
	return a
}

func readMirrorCopy(files FS, path string, i int) (seq uint64, payload []byte, err error) {
	at := mirrorPath(path, i)
	sector, err := ReadFile(files, at, mirrorSize)
	if err != nil {
		return 0, nil, err
	}
	seq, payload, err = decodeMirror(path, sector)
	if err != nil {
		return 0, nil, &DamageError{File: at, What: err.Error()}
	}
	return seq, payload, nil
}

// CreateMirror makes a mirror with this payload and sequence 0, in the place of
// one that is there. After a crash it may be there with one file.
func CreateMirror(files FS, path string, payload []byte) error {
	// The second file of an older one must not be found with the new first.
	err := files.Remove(mirrorPath(path, 1))
	if err == nil {
		err = files.SyncDir(parent(path))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	sector := encodeMirror(path, 0, payload)
	for i := range 2 {
		if err := WriteFile(files, mirrorPath(path, i), sector); err != nil {
			return err
		}
	}
	return nil
}

// OpenMirror opens a mirror for writing. It makes both files durable with the
// same content: the content that it read may be in the cache only, since the process that
// wrote it may have been killed before its Sync.
func OpenMirror(files FS, path string) (*Mirror, error) {
	state, err := ReadMirror(files, path)
	if err != nil {
		return nil, err
	}
	m := &Mirror{
		files: files, path: path, seq: state.Seq, tried: state.Seq, payload: bytes.Clone(state.Payload),
	}
	sector := encodeMirror(path, state.Seq, state.Payload)
	source, other := state.source, 1-state.source
	for i := range m.copies {
		m.copies[i] = &mirrorCopy{path: mirrorPath(path, i)}
	}
	err = m.copies[source].open(files)
	if err == nil && state.both {
		err = m.copies[other].open(files)
	}
	for _, i := range []int{other, source} {
		if err == nil {
			err = m.copies[i].write(files, sector)
		}
	}
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// Load returns the payload and its sequence, which each Store raises.
func (m *Mirror) Load() (seq uint64, payload []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seq, bytes.Clone(m.payload)
}

// Store replaces the payload durably. After an error either the old or the new
// one is found at the next start, and Store may be called again.
func (m *Mirror) Store(payload []byte) error {
	if len(payload) > MaxMirror {
		return fmt.Errorf("%s: %d bytes do not fit, at most %d do", m.path, len(payload), MaxMirror)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return &fs.PathError{Op: "store", Path: m.path, Err: fs.ErrClosed}
	}
	if err := m.reopen(); err != nil {
		return err
	}
	m.tried++
	sector := encodeMirror(m.path, m.tried, payload)
	order := m.copies
	if order[1].sector == nil {
		// The first is the only one that is known to be good.
		order[0], order[1] = order[1], order[0]
	}
	for _, c := range order {
		if err := c.write(m.files, sector); err != nil {
			return errors.Join(err, m.drop())
		}
	}
	m.seq, m.payload = m.tried, bytes.Clone(payload)
	return nil
}

// reopen opens the files again after a Store that failed. The file that did not
// fail must have the content that was written to it: the directory may have been replaced.
func (m *Mirror) reopen() error {
	for _, c := range m.copies {
		if c.file != nil || c.sector == nil {
			continue
		}
		sector, err := ReadFile(m.files, c.path, mirrorSize)
		if err != nil {
			return err
		}
		if !bytes.Equal(sector, c.sector) {
			return &DamageError{File: c.path, What: "the content differs from the one that this process wrote"}
		}
	}
	for _, c := range m.copies {
		err := c.open(m.files)
		if err == nil && c.sector == nil {
			err = c.replaceUnlessWhole()
		}
		if err != nil && (c.sector != nil || !errors.Is(err, fs.ErrNotExist)) {
			return err
		}
	}
	return nil
}

// drop closes the files.
func (m *Mirror) drop() error {
	var errs []error
	for _, c := range m.copies {
		if c.file != nil {
			errs = append(errs, c.file.Close())
			c.file = nil
		}
	}
	return errors.Join(errs...)
}

// Close closes the files.
func (m *Mirror) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return m.drop()
}

func (c *mirrorCopy) open(files FS) (err error) {
	if c.file == nil {
		c.file, err = files.Open(c.path)
	}
	return err
}

// replaceUnlessWhole closes the file if it has another length than a sector, so
// that write makes a new one.
func (c *mirrorCopy) replaceUnlessWhole() error {
	size, err := c.file.Size()
	if err != nil || size == mirrorSize {
		return err
	}
	err = c.file.Close()
	c.file = nil
	return err
}

// write writes the sector durably, in its place if the file is open, else in a
// new file. Until it returns without an error the content is not known.
func (c *mirrorCopy) write(files FS, sector []byte) error {
	c.sector = nil
	if c.file == nil {
		if err := WriteFile(files, c.path, sector); err != nil {
			return err
		}
		if err := c.open(files); err != nil {
			return err
		}
	} else {
		if _, err := c.file.WriteAt(sector, 0); err != nil {
			return err
		}
		if err := c.file.Sync(); err != nil {
			return err
		}
	}
	c.sector = sector
	return nil
}
