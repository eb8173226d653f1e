package raftstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// mayVote asks the others, before Raft is started, whether this node may use the data
// in its directory. If it may not, the node is lost, or there is an error with the
// remedy.
func (n *node) mayVote(own disk.Identity) (lost bool, err error) {
	n.participation.change(func(s *participationState) { s.standing, s.identity, s.life = standingMember, own, own.Life })
	n.net.Become(func(h *transport.Hello) { h.Incarnation, h.Life, h.Boot = own.Incarnation, own.Life, n.boot })
	ctx, cancel := context.WithTimeout(n.life, max(2*n.config.ElectionTimeout, leastStartCheck))
	defer cancel()
	found, others := n.dir.state, n.introduce(ctx)
	left, older := judgeStart(found.Mark.Starts+1, n.boot, found.Vote.Term, found.Stored.Log, others)
	if older != nil {
		return true, n.loseOwn(older, own.Incarnation)
	}
	against := judgeIncarnation(own, found.Mark.Starts == 0, others)
	if against.reason == nil && left.Removed {
		n.lose(standingRemoved, errRemoved, own.Incarnation)
		return true, nil
	}
	if against.reason == nil && !left.Replaced.IsZero() {
		against = objection{errReplaced(n.dir.path, own.Life, left.Replaced), own.Incarnation, true}
	}
	switch {
	case against.reason == nil:
		return false, nil
	case n.config.Rejoin:
		return true, n.loseOwn(against.reason, against.join)
	case against.final:
		return true, openError(dcs.ErrUnavailable, "%w", &disk.RejoinError{Dir: n.dir.path, Err: against.reason})
	}
	return false, nil // the others refuse it, and its calls report that
}

// startVoter starts Raft. If the log makes this node a voter, it is a member.
func (n *node) startVoter() error {
	if err := n.startMember(); err != nil {
		return err
	}
	if n.member().hasVote() {
		n.participation.change(func(s *participationState) { s.standing, s.waits = standingMember, nil })
	}
	return nil
}

// loseOwn makes this node one that must not use the data in its directory. It fails if
// there are no other nodes that can have them.
func (n *node) loseOwn(reason error, incarnation disk.Incarnation) error {
	n.lose(standingLost, reason, incarnation)
	if n.config.single() && len(n.roster.members()) <= 1 {
		return openError(dcs.ErrUnavailable, "%w: Peers names no other node that could have the missing data", reason)
	}
	return nil
}

// lose makes this node one that must not use the data in its directory. It presents a
// new life to the others. Without an incarnation it joins any cluster that admits it.
func (n *node) lose(now standing, reason error, incarnation disk.Incarnation) {
	own := n.dir.state.Identity
	life := disk.NewLife()
	n.participation.change(func(s *participationState) {
		s.standing, s.identity, s.life, s.lost, s.waits = now, own, life, reason, reason
	})
	n.net.Become(func(h *transport.Hello) { h.Incarnation, h.Life, h.Starts, h.Boot = incarnation, life, 0, n.boot })
	n.log.Error("node must not vote with its data", "standing", now, "reason", reason)
}

// lostError returns the reason why a node that lost its data waits.
func (n *node) lostError() error {
	if n.participation.get().standing == standingRemoved {
		return errRemoved
	}
	return fmt.Errorf("this node must not vote with its data (%w) and %w", n.participation.get().lost, errWaitsForLeader)
}

const (
	// minIntroPause and maxIntroPause bound the time until a node asks the others again. It
	// asks at once when another node has changed.
	minIntroPause = 25 * time.Millisecond
	maxIntroPause = time.Second
)

// takePart brings the node step by step to its place in the cluster, and watches that
// place, until the node ends or is replaced.
func (n *node) takePart() {
	defer func() {
		if n.hung.Load() {
			_ = n.stopMember() // close has skipped it
		}
	}()
	every := minIntroPause
	for n.life.Err() == nil {
		standing := n.participation.get().standing
		var err error
		switch standing {
		case standingFresh:
			err = n.foundStep(n.introduce(n.life))
		case standingFounding:
			err = n.startFounder(n.introduce(n.life))
		case standingLost, standingRemoved:
			err = n.returnStep(n.introduce(n.life))
		case standingJoining, standingNonVoter:
			err = n.joinStep(n.introduce(n.life))
		case standingMember:
			n.watchPlace()
			continue
		case standingReplaced:
			return
		}
		if err == nil {
			every = minIntroPause
			continue
		}
		if n.participation.waiting(err) && !errors.Is(err, errNonVoter) {
			n.log.Warn("node does not take part in the cluster yet", "standing", standing, "reason", err)
		}
		if n.participation.pause(n.life, every) {
			every = minIntroPause
		}
		every = min(2*every, maxIntroPause)
	}
}

// errWaitsForLeader reports that a node without a vote waits for a leader.
var errWaitsForLeader = errors.New("waits for a Raft leader that the other nodes elect")

// returnStep is the step of a node that must not use its data. Once a leader of the
// others has put its new life into the configuration, it moves the data aside and starts
// Raft. It keeps the data until that is certain. Then a majority has agreed to the new
// life without them.
func (n *node) returnStep(others map[string]introReply) error {
	for _, id := range slices.Sorted(maps.Keys(others)) {
		a := others[id]
		if a.err != nil || !a.said.Admitted {
			continue
		}
		s := n.participation.get()
		own := disk.Identity{Owner: n.dir.owner, Incarnation: a.peer.Incarnation, Life: s.life, Founders: a.said.Founders, Addrs: a.said.FounderAddrs, Former: a.said.Former}
		aside := n.dir.asidePath()
		if err := n.dir.setAside(own); err != nil {
			return err
		}
		n.log.Warn("node moved its data aside and joins the cluster with a new life", "to", aside, "life", own.Life)
		n.settle(own)
		return n.startMember()
	}
	return n.lostError()
}

// joinStep is the step of a node on which Raft runs and that is no voter. It asks the
// leader for its place.
func (n *node) joinStep(others map[string]introReply) error {
	m := n.member()
	if m == nil {
		return n.startMember() // which failed before
	}
	voter, nonVoter := m.leading() != 0, false // the others have elected it
	for _, a := range others {
		if a.err == nil && a.said.Removed {
			n.leave(a.said)
			return errRemoved
		}
		voter = voter || a.err == nil && a.said.Voter
		nonVoter = nonVoter || a.err == nil && a.said.NonVoter
	}
	switch {
	case voter:
		n.participation.change(func(s *participationState) { s.standing, s.waits = standingMember, nil })
		n.log.Info("node is a voter of the cluster")
		return nil
	case nonVoter:
		n.participation.change(func(s *participationState) { s.standing = standingNonVoter })
		return errNonVoter
	}
	return fmt.Errorf("this node has no vote yet and %w", errWaitsForLeader)
}

// errNonVoter reports that a node has all data and no vote.
var errNonVoter = errors.New("this node is a member without a vote until AddVoter is called for it")

// whyNoLeader returns errNoLeader, with the reason if it is known.
func (n *node) whyNoLeader() error {
	if why := n.participation.get().waits; why != nil {
		return fmt.Errorf("%w: %w", errNoLeader, why)
	}
	return errNoLeader
}
