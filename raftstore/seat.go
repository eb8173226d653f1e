package raftstore

import (
	"fmt"
	"sync"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
)

// standing is a node's relation to the cluster. It is sent to other nodes.
type standing string

const (
	// standingFresh is that of a node that takes part in no cluster yet. Raft
	// does not run.
	standingFresh standing = "fresh"
	// standingFounding is that of a founder which has not seen yet that every
	// node knows of the founding. Raft does not run.
	standingFounding standing = "founding"
	// standingLost is that of a node that must not use what its directory has.
	// Raft does not run. The node waits until a leader that the others elected
	// has removed its old life.
	standingLost standing = "lost"
	// standingJoining is that of a node that Raft runs on and that is no voter
	// yet.
	standingJoining standing = "joining"
	// standingMember is that of a node that Raft runs on with all its data.
	standingMember standing = "member"
	// standingReplaced is that of a node that the others have replaced by
	// another life. Raft does not run, and an operator is needed.
	standingReplaced standing = "replaced"
)

// seat is how a node stands, and what it waits for.
type seat struct {
	mu sync.Mutex
	seatState
}

type seatState struct {
	standing standing
	identity disk.Identity // as it is on the disk; but see life
	life     disk.Life     // under which the node is known to the others now
	lost     error         // why the data must not be used, nil if they may
	waits    error         // what the node waits for, nil if nothing
}

// health returns the state of a node that is no voter, and Well for one that is.
func (s seatState) health() (HealthState, error) {
	switch s.standing {
	case standingFresh, standingFounding:
		return Waiting, s.waits
	case standingJoining:
		return Joining, s.waits
	case standingLost:
		return Lost, s.waits
	case standingReplaced:
		return Replaced, s.waits
	default:
		return Well, nil
	}
}

func (s *seat) look() seatState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seatState
}

func (s *seat) change(f func(*seatState)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.seatState)
}

// waiting notes what the node waits for and reports whether that is news.
func (s *seat) waiting(why error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	news := fmt.Sprint(s.waits) != fmt.Sprint(why)
	s.waits = why
	return news
}
