package raftstore

import (
	"fmt"
	"sync"

	"github.com/holdfast-dcs/holdfast/dcs"
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
	since    dcs.Instant   // the last change of standing
	identity disk.Identity // as it is on the disk; but see life
	life     disk.Life     // under which the node is known to the others now
	lost     error         // why the data must not be used, nil if they may
	waits    error         // what the node waits for, nil if nothing
}

// health returns s as Status has it.
func (s seatState) health() Health {
	state := map[standing]HealthState{
		standingFresh: Waiting, standingFounding: Waiting, standingLost: Lost,
		standingJoining: Joining, standingMember: Well, standingReplaced: Replaced,
	}[s.standing]
	return Health{State: state, Since: s.since.Elapsed(), Err: s.waits}
}

func (s *seat) look() seatState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seatState
}

func (s *seat) change(f func(*seatState)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.standing
	f(&s.seatState)
	if s.standing != before {
		s.since = dcs.Now()
	}
}

// waiting notes what the node waits for and reports whether that is news.
func (s *seat) waiting(why error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	news := fmt.Sprint(s.waits) != fmt.Sprint(why)
	s.waits = why
	return news
}
