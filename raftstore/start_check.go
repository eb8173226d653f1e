package raftstore

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backoff"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
)

// An older copy of a whole directory is consistent in itself. Only the other nodes can
// know that it lacks entries. So a node asks them before it votes. It does not wait for
// nodes that do not answer, because a cluster with one node down must be able to elect.
// Therefore the check detects only losses of which a running node knows.

// leastStartCheck is the shortest timeout for the question to the others before a vote.
const leastStartCheck = time.Second

// errOlderCopy reports that a directory lacks data that its node once had.
var errOlderCopy = errors.New("the directory is an older copy")

// judgeStart returns an error if a node knows of newer data than the directory has, or
// the answer of a leader by which this node was removed or replaced. term and end are
// those of the directory. Entries of an earlier term may have been deleted since.
func judgeStart(starts uint32, boot, term uint64, end disk.LogEnd, others map[string]introReply) (left setupMessage, err error) {
	for _, id := range slices.Sorted(maps.Keys(others)) {
		a := others[id]
		if a.err != nil {
			continue
		}
		seen, known := a.said.Seen, a.said.Proven
		switch {
		case a.said.Removed, !a.said.Replaced.IsZero():
			return a.said, nil
		case seen.Starts > starts || seen.Starts == starts && seen.Boot != boot:
			return left, fmt.Errorf("%w: node %s has seen start %d of this node, and this is start %d", errOlderCopy, id, seen.Starts, starts)
		case known.Term > term:
			return left, fmt.Errorf("%w: node %s has seen this node in term %d, and the directory is of term %d", errOlderCopy, id, known.Term, term)
		case known.Term == term && end.Before(known.Log):
			return left, fmt.Errorf("%w: node %s has seen that this node has entry %d of term %d, and the log ends with entry %d of term %d", errOlderCopy, id, known.Log.Index, known.Log.Term, end.Index, end.Term)
		}
	}
	return left, nil
}

// foreign returns an error if so many of the others belong to one other incarnation that
// this node's has no majority. It ignores the former incarnations of this node's, which
// have ended.
func foreign(own disk.Identity, others map[string]introReply) error {
	count := map[disk.Incarnation]int{}
	for _, a := range others {
		if a.err == nil && !a.peer.Incarnation.IsZero() && a.peer.Incarnation != own.Incarnation && !slices.Contains(own.Former, a.peer.Incarnation) {
			count[a.peer.Incarnation]++
		}
	}
	for other, nodes := range count {
		if nodes > (len(others)+1)/2 {
			return fmt.Errorf("%d of %d nodes belong to incarnation %v of the cluster, which was founded separately, and this node to %v", nodes, len(others)+1, other, own.Incarnation)
		}
	}
	return nil
}

// errReplaced returns an error which reports that another life has this node's place.
func errReplaced(dir string, own, other disk.Life) error {
	return fmt.Errorf("%s: the other nodes have replaced life %v of this node by life %v", dir, own, other)
}

// errRemoved reports that this node is no member any more.
var errRemoved = errors.New("this node was removed from the cluster: to make it join with a new life, add it again with AddVoter or AddNonVoter")

// leave ends this node's part in Raft after the others have removed it, or replaced
// it by another life.
func (n *node) leave(said setupMessage) {
	own := n.participation.get().identity
	if !said.Removed {
		n.replace(errReplaced(n.dir.path, own.Life, said.Replaced), own.Incarnation)
		return
	}
	if n.endPart() {
		n.lose(standingRemoved, errRemoved, own.Incarnation)
	}
}

// endPart ends this node's part in Raft and reports whether it has ended.
func (n *node) endPart() bool {
	n.changing.Lock()
	defer n.changing.Unlock()
	if err := n.stopMember(); err != nil {
		n.log.Error("node could not end its part in Raft", "error", err)
		return false
	}
	n.part.Store(nil)
	return true
}

// replace ends this node's part in Raft after the others have replaced the node or its
// incarnation. join is the incarnation in which it may take part again.
func (n *node) replace(reason error, join disk.Incarnation) {
	if !n.endPart() {
		return
	}
	if n.config.Rejoin {
		n.lose(standingLost, reason, join)
		return
	}
	refusal := &disk.RejoinError{Dir: n.dir.path, Err: reason}
	n.participation.change(func(s *participationState) { s.standing, s.lost, s.waits = standingReplaced, reason, refusal })
	n.log.Error("node takes no part in the cluster any more", "reason", refusal)
}

// watchPlace asks the others, while no leader is known, whether they have removed this
// node, or replaced it or its incarnation. It returns when they have, when this node has
// lost its vote, or when the node ends.
func (n *node) watchPlace() {
	silent := dcs.Now()
	for n.life.Err() == nil {
		backoff.Sleep(n.life, leastStartCheck/2)
		if m := n.member(); m != nil && m.lostVote() {
			// It was removed and added again before it noticed.
			n.participation.change(func(s *participationState) { s.standing = standingNonVoter })
			return
		}
		if n.leaderAddr() != "" {
			silent = dcs.Now()
		}
		if n.life.Err() != nil || silent.Elapsed() < 2*leastStartCheck {
			continue
		}
		own, others := n.participation.get().identity, n.introduce(n.life)
		if by, id := successor(own, others); !by.IsZero() {
			n.replace(errIncarnationEnded(own.Incarnation, by, id), by)
			return
		}
		for _, a := range others {
			if a.err == nil && (a.said.Removed || !a.said.Replaced.IsZero()) {
				n.leave(a.said)
				return
			}
		}
	}
}
