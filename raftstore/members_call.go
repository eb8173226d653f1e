package raftstore

import (
	"github.com/hashicorp/raft"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/codec"
)

// maxMembers bounds the list that a reply to opMembers brings.
const maxMembers = 1024

// listedMember is one server of the replicated configuration, as opMembers
// returns it.
type listedMember struct {
	id    raft.ServerID
	addr  string // host:port, without the life
	voter bool
}

// members returns the servers of the latest configuration. The caller must have
// made sure that this member leads.
func (m *member) members() []listedMember {
	var list []listedMember
	for _, s := range m.servers() {
		list = append(list, listedMember{id: s.ID, addr: m.plainAddrOf(s), voter: s.Suffrage == raft.Voter})
	}
	return list
}

func encodeMembers(e *codec.Encoder, list []listedMember) {
	e.Uint(uint64(len(list)))
	for _, m := range list {
		e.Text(string(m.id))
		e.Text(m.addr)
		e.Bool(m.voter)
	}
}

func decodeMembers(d *codec.Decoder) []listedMember {
	var list []listedMember
	for range min(d.Count(), maxMembers) {
		list = append(list, listedMember{id: raft.ServerID(d.Text()), addr: d.Text(), voter: d.Bool()})
	}
	return list
}
