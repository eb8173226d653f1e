package transport

import (
	"testing"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
)

// TestProvenStates checks that messages of servers prove their newest entries, and
// nothing more.
func TestProvenStates(t *testing.T) {
	var s provenStates
	id := ServerID("a", disk.Life{1})
	header := raft.RPCHeader{ID: []byte(id)}
	require.Zero(t, s.of(id))
	sent := func(term, index uint64) *raft.AppendEntriesRequest {
		return &raft.AppendEntriesRequest{RPCHeader: header, Term: term, PrevLogEntry: index - 1, PrevLogTerm: 2, Entries: []*raft.Log{{Index: index, Term: 2}}}
	}
	for _, c := range []struct {
		name    string
		command any
		want    ProvenState
	}{
		{"entries", sent(3, 10), ProvenState{3, disk.LogEnd{Index: 10, Term: 2}}},
		{"earlier entries", sent(3, 7), ProvenState{3, disk.LogEnd{Index: 10, Term: 2}}},
		{"no entries", &raft.AppendEntriesRequest{RPCHeader: header, Term: 3, PrevLogEntry: 12, PrevLogTerm: 2}, ProvenState{3, disk.LogEnd{Index: 12, Term: 2}}},
		{"a pre-vote", &raft.RequestPreVoteRequest{RPCHeader: header, Term: 9}, ProvenState{3, disk.LogEnd{Index: 12, Term: 2}}},
		{"a candidate, of whose log the leader may delete", &raft.RequestVoteRequest{RPCHeader: header, Term: 4, LastLogIndex: 99, LastLogTerm: 3}, ProvenState{Term: 4}},
		{"an earlier term", sent(3, 50), ProvenState{Term: 4}},
		{"the same term", sent(4, 5), ProvenState{4, disk.LogEnd{Index: 5, Term: 2}}},
	} {
		s.noteSender(c.command)
		require.Equal(t, c.want, s.of(id), c.name)
	}
	require.Zero(t, s.of(ServerID("b", disk.Life{1})))
	require.Zero(t, s.of(ServerID("a", disk.Life{2})))
	s.note(ServerID("a", disk.Life{2}), ProvenState{Term: 1})
	require.Zero(t, s.of(id), "another life is in its place")
	require.Equal(t, ProvenState{Term: 1}, s.of(ServerID("a", disk.Life{2})))
}
