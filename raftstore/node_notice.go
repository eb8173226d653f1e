package raftstore

import (
	"sync"

	"github.com/hashicorp/raft"
)

// Raft tells followers of a commit with the next message that carries entries,
// or after commitTimeout. Whoever waits on a follower for the last of a series
// of commits would always wait that long; hence the notices: once the newest
// entry of the log is applied on the leader, each follower is sent an
// AppendEntries without entries that names it as committed.
//
// It is a message that Raft itself might have sent: the entry it refers to is
// committed and is named with its term, so that a follower which lacks it or
// has another one in its place refuses. If it is lost, commitTimeout stands in.

// notices tells followers of commits.
type notices struct {
	mu          sync.Mutex
	index, term uint64 // the newest entry applied here, and its term
	wake        []chan struct{}
}

// applied is told of each batch that was applied here, on the FSM's goroutine.
func (s *notices) applied(index, term uint64) {
	s.mu.Lock()
	s.index, s.term = index, term
	s.mu.Unlock()
	for _, c := range s.wake {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

func (s *notices) newest() (index, term uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.index, s.term
}

// startNotices starts a goroutine for each other member.
func (n *node) startNotices() {
	for _, s := range n.members().Servers {
		if s.ID != n.id {
			wake := make(chan struct{}, 1)
			n.notices.wake = append(n.notices.wake, wake)
			n.running.Go(func() { n.notify(s, wake) })
		}
	}
	n.state.OnBatch(n.notices.applied)
}

func (n *node) notify(to raft.Server, wake <-chan struct{}) {
	for {
		select {
		case <-wake:
		case <-n.life.Done():
			return
		}
		term := n.leading()
		index, indexTerm := n.notices.newest()
		if term == 0 || index != n.raft.LastIndex() {
			continue // not ours to tell, or the next entry will tell
		}
		err := n.peers.AppendEntries(to.ID, to.Address, &raft.AppendEntriesRequest{
			RPCHeader: raft.RPCHeader{
				ProtocolVersion: raft.ProtocolVersionMax,
				ID:              []byte(n.id),
				Addr:            n.peers.EncodePeer(n.id, raft.ServerAddress(n.net.addr())),
			},
			Term:              term,
			PrevLogEntry:      index,
			PrevLogTerm:       indexTerm,
			LeaderCommitIndex: index,
		}, &raft.AppendEntriesResponse{})
		if err != nil {
			pause(n.life, n.config.HeartbeatTimeout)
		}
	}
}
