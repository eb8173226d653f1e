package raftstore

import (
	"encoding/binary"
	"fmt"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/codec"
)

// voice is the answer to the question of P2, whose body is empty.
type voice struct {
	term  uint64 // the current term of the node, read after the question has arrived
	level byte   // the newest feature level that the node understands
	well  bool   // the others can rely on the node's disk
}

const voiceSize = 10

func (v voice) encode() []byte {
	well := byte(0)
	if v.well {
		well = 1
	}
	return append(binary.BigEndian.AppendUint64(make([]byte, 0, voiceSize), v.term), v.level, well)
}

func decodeVoice(b []byte) (voice, error) {
	if len(b) != voiceSize {
		return voice{}, fmt.Errorf("the answer to a question has %d bytes, want %d: %w", len(b), voiceSize, codec.ErrShort)
	}
	return voice{term: binary.BigEndian.Uint64(b), level: b[8], well: b[9] == 1}, nil
}
