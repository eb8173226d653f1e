package raftstore

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
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
	// standingNonVoter is that of a node that Raft runs on and that stays without a
	// vote until somebody calls AddVoter.
	standingNonVoter standing = "non-voter"
	// standingRemoved is that of a node that the others have removed. Raft does not
	// run. The node joins with a new life if it is added again.
	standingRemoved standing = "removed"
	// standingReplaced is that of a node that the others have replaced by
	// another life. Raft does not run, and an operator is needed.
	standingReplaced standing = "replaced"
)

// seat is how a node stands, and what it waits for.
type seat struct {
	news chan struct{} // another node has changed

	mu    sync.Mutex
	known map[string]knownPeer // what each other node last was
	seatState
}

// knownPeer is what another node said of itself.
type knownPeer struct {
	life        disk.Life
	incarnation disk.Incarnation
	standing    standing
}

func newSeat() seat { return seat{news: make(chan struct{}, 1), known: map[string]knownPeer{}} }

// heard notes what another node of the cluster is, and ends a pause if that is news.
func (s *seat) heard(peer transport.Hello, m setupMessage) {
	now := knownPeer{life: peer.Life, incarnation: peer.Incarnation, standing: m.Standing}
	s.mu.Lock()
	news := s.known[peer.ID] != now
	s.known[peer.ID] = now
	s.mu.Unlock()
	if news {
		select {
		case s.news <- struct{}{}:
		default:
		}
	}
}

// lifeOf returns the life that a node had when this one last heard of it.
func (n *node) lifeOf(id string) disk.Life {
	if id == n.config.ID {
		return n.net.Greeting().Life
	}
	n.seat.mu.Lock()
	defer n.seat.mu.Unlock()
	return n.seat.known[id].life
}

// pause waits for d, for news of another node, or for the end of ctx. It
// reports whether there are news.
func (s *seat) pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	case <-s.news:
		return true
	}
	return false
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
		standingNonVoter: NonVoting, standingRemoved: Removed,
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
