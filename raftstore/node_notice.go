package raftstore

import (
	"sync"

	"github.com/hashicorp/raft"

	"github.com/holdfast-dcs/holdfast/internal/backoff"
)

// Raft notifies followers of a commit with the next message that carries entries, or
// after commitTimeout. A Wait on a follower for the last of a series of commits would
// always take that long. Therefore, once the newest entry of the log is applied on the
// leader, it sends each follower a notice, an AppendEntries without entries that names
// that entry as committed.
//
// Raft itself might have sent this message. The entry is committed and is named with
// its term, so that a follower that lacks it, or has another one in its place,
// refuses. If a notice is lost, the follower learns of the commit after commitTimeout.

// notices notifies the other servers of the present configuration of commits.
type notices struct {
	m *member

	mu          sync.Mutex
	index, term uint64 // the newest entry applied here, and its term
	from        []raft.Server
	to          map[raft.ServerID]*notified
	closed      bool
}

// notified is a server that is notified of commits.
type notified struct {
	raft.Server
	wake chan struct{} // closed when the server has left the configuration
}

// applied is called for each batch that was applied here, on the FSM's goroutine.
func (s *notices) applied(index, term uint64) {
	servers := s.m.servers()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index, s.term = index, term
	if s.closed {
		return
	}
	if !sameServers(servers, s.from) {
		s.follow(servers)
	}
	for _, to := range s.to {
		select {
		case to.wake <- struct{}{}:
		default:
		}
	}
}

// follow starts a goroutine for each server that is new and ends those of the
// servers that have gone. The caller holds the lock.
func (s *notices) follow(servers []raft.Server) {
	old := s.to
	s.from, s.to = servers, map[raft.ServerID]*notified{}
	for _, server := range servers {
		if server.ID == s.m.id {
			continue
		}
		to := old[server.ID]
		delete(old, server.ID)
		if to == nil {
			to = &notified{Server: server, wake: make(chan struct{}, 1)}
			s.m.running.Go(func() { s.notify(to) })
		}
		s.to[server.ID] = to
	}
	for _, gone := range old {
		close(gone.wake)
	}
}

// close prevents further goroutines. Those that run end with the member.
func (s *notices) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

func (s *notices) newest() (index, term uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.index, s.term
}

func (s *notices) notify(to *notified) {
	m := s.m
	for {
		select {
		case _, present := <-to.wake:
			if !present {
				return
			}
		case <-m.life.Done():
			return
		}
		term := m.leading()
		index, indexTerm := s.newest()
		if term == 0 || index != m.raft.LastIndex() {
			continue // this node does not lead, or the next entry brings the notice
		}
		err := m.peers.AppendEntries(to.ID, to.Address, &raft.AppendEntriesRequest{
			RPCHeader: raft.RPCHeader{
				ProtocolVersion: raft.ProtocolVersionMax,
				ID:              []byte(m.id),
				Addr:            m.peers.EncodePeer(m.id, raft.ServerAddress(m.node.net.Addr())),
			},
			Term:              term,
			PrevLogEntry:      index,
			PrevLogTerm:       indexTerm,
			LeaderCommitIndex: index,
		}, &raft.AppendEntriesResponse{})
		if err != nil {
			backoff.Sleep(m.life, m.node.config.HeartbeatTimeout)
		}
	}
}
