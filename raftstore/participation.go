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
	// standingFounding is that of a founder that does not know yet whether every node
	// knows of the founding. Raft does not run.
	standingFounding standing = "founding"
	// standingLost is that of a node that must not use the data in its directory. Raft
	// does not run. The node waits until a leader that the others elected has put its
	// new life into the configuration.
	standingLost standing = "lost"
	// standingJoining is that of a node that is no voter yet. Raft runs.
	standingJoining standing = "joining"
	// standingMember is that of a node with all its data. Raft runs.
	standingMember standing = "member"
	// standingNonVoter is that of a node that stays without a vote until AddVoter is
	// called for it. Raft runs.
	standingNonVoter standing = "non-voter"
	// standingRemoved is that of a node that the others have removed. Raft does not
	// run. The node joins with a new life if it is added again.
	standingRemoved standing = "removed"
	// standingReplaced is that of a node that the others have replaced by
	// another life. Raft does not run, and an operator is needed.
	standingReplaced standing = "replaced"
)

// participation is a node's standing, with the event for which it waits.
type participation struct {
	changed chan struct{} // signalled when another node has changed

	mu    sync.Mutex
	peers map[string]peerState // the last known state of each other node
	participationState
}

// peerState is the state that another node reported.
type peerState struct {
	life        disk.Life
	incarnation disk.Incarnation
	standing    standing
}

func newParticipation() participation {
	return participation{changed: make(chan struct{}, 1), peers: map[string]peerState{}}
}

// notePeer records the state of another node of the cluster, and ends a pause if the
// state has changed.
func (p *participation) notePeer(peer transport.Hello, m setupMessage) {
	now := peerState{life: peer.Life, incarnation: peer.Incarnation, standing: m.Standing}
	p.mu.Lock()
	isNew := p.peers[peer.ID] != now
	p.peers[peer.ID] = now
	p.mu.Unlock()
	if isNew {
		select {
		case p.changed <- struct{}{}:
		default:
		}
	}
}

// lifeOf returns the last known life of a node.
func (n *node) lifeOf(id string) disk.Life {
	if id == n.config.ID {
		return n.net.Greeting().Life
	}
	n.participation.mu.Lock()
	defer n.participation.mu.Unlock()
	return n.participation.peers[id].life
}

// pause waits for d, for a change of another node, or for the end of ctx. It reports
// whether another node has changed.
func (p *participation) pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	case <-p.changed:
		return true
	}
	return false
}

type participationState struct {
	standing standing
	since    dcs.Instant   // the last change of standing
	identity disk.Identity // as it is on the disk, but see life
	life     disk.Life     // the life under which the others know the node now
	lost     error         // why the data must not be used, or nil
	waits    error         // describes the event that the node awaits, or nil
}

// health returns s as the Health in a Status.
func (s participationState) health() Health {
	state := map[standing]HealthState{
		standingFresh: Waiting, standingFounding: Waiting, standingLost: Lost,
		standingJoining: Joining, standingMember: Well, standingReplaced: Replaced,
		standingNonVoter: NonVoting, standingRemoved: Removed,
	}[s.standing]
	return Health{State: state, Since: s.since.Elapsed(), Err: s.waits}
}

func (p *participation) get() participationState {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.participationState
}

func (p *participation) change(f func(*participationState)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.standing
	f(&p.participationState)
	if p.standing != before {
		p.since = dcs.Now()
	}
}

// waiting records the event that the node awaits, and reports whether it is another
// one than before.
func (p *participation) waiting(why error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	isNew := fmt.Sprint(p.waits) != fmt.Sprint(why)
	p.waits = why
	return isNew
}
