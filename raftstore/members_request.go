package raftstore

import (
	"encoding/json"
	"fmt"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/codec"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
)

// memberVerb is the operation that a memberRequest requests.
type memberVerb byte

const (
	verbList memberVerb = iota + 1
	verbAddVoter
	verbAddNonVoter
	verbRemove
	verbMove
	verbTransfer
)

// String returns the name of the method.
func (v memberVerb) String() string {
	names := [...]string{verbList: "Members", verbAddVoter: "AddVoter", verbAddNonVoter: "AddNonVoter", verbRemove: "Remove", verbMove: "Move", verbTransfer: "Transfer"}
	if v < 1 || int(v) >= len(names) {
		return fmt.Sprintf("change %d", byte(v))
	}
	return names[v]
}

// memberRequest is the part of a request that concerns the members.
type memberRequest struct {
	verb memberVerb
	id   string // the node; for verbTransfer, "" is any other one
	addr string // verbAddVoter, verbAddNonVoter, verbMove
	// from is the leader when the call was made, for verbTransfer to any other node.
	from  string
	nonce state.Nonce // of the call; all its copies have the same one
}

func (r memberRequest) encode(e *codec.Encoder) {
	e.Byte(byte(r.verb))
	e.Text(r.id)
	e.Text(r.addr)
	e.Text(r.from)
	e.Raw(r.nonce[:])
}

func decodeMemberRequest(d *codec.Decoder) memberRequest {
	return memberRequest{verb: memberVerb(d.Byte()), id: d.Text(), addr: d.Text(), from: d.Text(), nonce: state.Nonce(d.Raw(len(state.Nonce{})))}
}

// encodeMembers and decodeMembers transfer the list between nodes.
func encodeMembers(all []Member) []byte {
	b, err := json.Marshal(all)
	if err != nil {
		return nil // no member has a value that cannot be encoded
	}
	return b
}

func decodeMembers(b []byte) (all []Member, err error) {
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, fmt.Errorf("malformed list of members: %w", err)
	}
	return all, nil
}
