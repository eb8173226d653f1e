package disk

import (
	"encoding/binary"
	"errors"
	"path/filepath"
)

// A Vote is the part in elections that a node must not forget. Its fields
// are those that Raft stores, each on its own.
type Vote struct {
	Life      Life
	Term      uint64 // the highest term that the node has seen
	VoteTerm  uint64 // the term of its last vote
	Candidate []byte // the candidate that got it, in Raft's form
}

// A Mark says how much the log and the vote once held. It is written after
// them, so that a log that ends before the mark was cut, replaced or removed.
type Mark struct {
	Life    Life
	Log     LogEnd // that was durable
	VoteSeq uint64 // of the vote's mirror
	Starts  uint32 // of the node with this life
}

// IsEmpty reports whether v is of a node that never took part in an election.
func (v Vote) IsEmpty() bool { return v.Term == 0 && v.VoteTerm == 0 && len(v.Candidate) == 0 }

// IsEmpty reports whether m is of a node that stored no entry.
func (m Mark) IsEmpty() bool { return m.Log == LogEnd{} }

// voteHeader is the length of an encoded vote without its candidate.
const voteHeader = 8 + 8 + 8

// MaxCandidate is the longest Candidate of a Vote.
const MaxCandidate = MaxMirror - voteHeader

// Encode returns the payload for a mirror.
func (v Vote) Encode() []byte {
	b := append(make([]byte, 0, voteHeader+len(v.Candidate)), v.Life[:]...)
	b = binary.LittleEndian.AppendUint64(b, v.Term)
	b = binary.LittleEndian.AppendUint64(b, v.VoteTerm)
	return append(b, v.Candidate...)
}

// DecodeVote returns the vote that Encode wrote.
func DecodeVote(b []byte) (v Vote, err error) {
	if len(b) < voteHeader {
		return v, errors.New("a vote is longer")
	}
	copy(v.Life[:], b)
	v.Term = binary.LittleEndian.Uint64(b[8:])
	v.VoteTerm = binary.LittleEndian.Uint64(b[16:])
	if len(b) > voteHeader {
		v.Candidate = append([]byte{}, b[voteHeader:]...)
	}
	return v, nil
}

const markSize = 8 + 8 + 8 + 8 + 8 + 8 + 4

// Encode returns the payload for a mirror.
func (m Mark) Encode() []byte {
	b := append(make([]byte, 0, markSize), m.Life[:]...)
	b = binary.LittleEndian.AppendUint64(b, m.Log.Segment)
	b = binary.LittleEndian.AppendUint64(b, uint64(m.Log.Offset))
	b = binary.LittleEndian.AppendUint64(b, m.Log.Index)
	b = binary.LittleEndian.AppendUint64(b, m.Log.Term)
	b = binary.LittleEndian.AppendUint64(b, m.VoteSeq)
	return binary.LittleEndian.AppendUint32(b, m.Starts)
}

// DecodeMark returns the mark that Encode wrote.
func DecodeMark(b []byte) (m Mark, err error) {
	if len(b) != markSize {
		return m, errors.New("a mark has another length")
	}
	copy(m.Life[:], b)
	m.Log.Segment = binary.LittleEndian.Uint64(b[8:])
	m.Log.Offset = int64(binary.LittleEndian.Uint64(b[16:]))
	m.Log.Index = binary.LittleEndian.Uint64(b[24:])
	m.Log.Term = binary.LittleEndian.Uint64(b[32:])
	m.VoteSeq = binary.LittleEndian.Uint64(b[40:])
	m.Starts = binary.LittleEndian.Uint32(b[48:])
	if m.Log.Offset < 0 {
		return Mark{}, errors.New("the offset is negative")
	}
	return m, nil
}

// OpenVote opens the mirror with the vote of the data directory dir.
func OpenVote(files FS, dir string) (*Mirror, Vote, error) {
	return openAs(files, dir, voteFile, DecodeVote)
}

// OpenMark opens the mirror with the mark of the data directory dir.
func OpenMark(files FS, dir string) (*Mirror, Mark, error) {
	return openAs(files, dir, markFile, DecodeMark)
}

func openAs[T any](files FS, dir, name string, decode func([]byte) (T, error)) (*Mirror, T, error) {
	path := filepath.Join(dir, name)
	var none T
	m, err := OpenMirror(files, path)
	if err != nil {
		return nil, none, err
	}
	_, payload := m.Load()
	value, err := decode(payload)
	if err != nil {
		return nil, none, errors.Join(&DamageError{File: mirrorPath(path, 0), Offset: mirrorData, What: err.Error()}, m.Close())
	}
	return m, value, nil
}

// readAs reads a mirror without a change to it.
func readAs[T any](files FS, dir, name string, decode func([]byte) (T, error)) (seq uint64, value T, err error) {
	path := filepath.Join(dir, name)
	state, err := ReadMirror(files, path)
	if err != nil {
		return 0, value, err
	}
	value, err = decode(state.Payload)
	if err != nil {
		err = &DamageError{File: mirrorPath(path, state.source), Offset: mirrorData, What: err.Error()}
	}
	return state.Seq, value, err
}
