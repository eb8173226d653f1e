package raftstore

import (
	"encoding/binary"
	"fmt"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/codec"
)

// voterState is the answer to the question of P2, whose body is empty.
type voterState struct {
	term  uint64 // the current term of the node, read after the question has arrived
	level byte   // the newest feature level that the node understands
	well  bool   // the others can rely on the node's disk
}

const voterStateSize = 10

func (v voterState) encode() []byte {
	well := byte(0)
	if v.well {
		well = 1
	}
	return append(binary.BigEndian.AppendUint64(make([]byte, 0, voterStateSize), v.term), v.level, well)
}

func decodeVoterState(b []byte) (voterState, error) {
	if len(b) != voterStateSize {
		return voterState{}, fmt.Errorf("the answer to a question has %d bytes, want %d: %w", len(b), voterStateSize, codec.ErrShort)
	}
	return voterState{term: binary.BigEndian.Uint64(b), level: b[8], well: b[9] == 1}, nil
}
