package transport

import (
	"sync"

	"github.com/hashicorp/raft"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
)

// A ProvenState is the newest entry that a message of another server proves it had stored.
// A server stores its term before it sends it, and its log before it acknowledges
// or sends entries of it.
type ProvenState struct {
	// Term is the highest term that the server was in.
	Term uint64 `json:"term,omitempty"`
	// Log is the newest entry that the server had in that term, as its leader or
	// acknowledged to its leader. In the same term no server deletes such an entry.
	Log disk.LogEnd `json:"log,omitzero"`
}

// provenStates are the newest ones of each node. The zero value is ready.
type provenStates struct {
	mu     sync.Mutex
	newest map[string]provenServer // by the node's name, so that they are few
}

type provenServer struct {
	id raft.ServerID
	ProvenState
}

// note takes over s if it is newer than the present state of that server. One of
// another life of the node is dropped.
func (s *provenStates) note(id raft.ServerID, next ProvenState) {
	if next.Term == 0 {
		return
	}
	node := NodeOf(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.newest == nil {
		s.newest = map[string]provenServer{}
	}
	now := s.newest[node]
	if now.id == id && (now.Term > next.Term || now.Term == next.Term && now.Log.Index >= next.Log.Index) {
		return
	}
	s.newest[node] = provenServer{id, next}
}

// of returns the newest proven state of a server, zero without one.
func (s *provenStates) of(id raft.ServerID) ProvenState {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.newest[NodeOf(id)]; now.id == id {
		return now.ProvenState
	}
	return ProvenState{}
}

// noteSender notes the sender of a request. A request for a pre-vote names a term
// that its sender has not stored.
func (s *provenStates) noteSender(command any) {
	switch req := command.(type) {
	case *raft.AppendEntriesRequest:
		s.note(raft.ServerID(req.ID), ProvenState{Term: req.Term, Log: endOf(req)})
	case *raft.RequestVoteRequest:
		// The leader of that term may delete entries of a candidate.
		s.note(raft.ServerID(req.ID), ProvenState{Term: req.Term})
	}
}

// endOf returns the newest entry that req shows its sender to have.
func endOf(req *raft.AppendEntriesRequest) disk.LogEnd {
	if n := len(req.Entries); n > 0 {
		return disk.LogEnd{Index: req.Entries[n-1].Index, Term: req.Entries[n-1].Term}
	}
	return disk.LogEnd{Index: req.PrevLogEntry, Term: req.PrevLogTerm}
}
