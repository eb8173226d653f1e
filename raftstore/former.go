package raftstore

import (
	"fmt"
	"maps"
	"slices"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// Recover and Restore end an incarnation of the cluster, and the next one names it
// among its former ones. Nodes of the two always refuse each other. By these names a
// node that reaches a node of the other incarnation detects which of the two
// continues. It cannot detect that across a partition, and a majority of the old
// voters that reach each other elects a leader.

// objection is a reason why a node must not use its data.
type objection struct {
	reason error
	// join is the incarnation to which the node belongs without its data. Zero
	// means any that admits it.
	join disk.Incarnation
	// final means that the node must not start. Without it the node starts, and the
	// others refuse it.
	final bool
}

// judgeIncarnation returns the objection that follows from the incarnations of the
// other nodes. first means that this node starts for the first time after a Recover
// or a Restore. Only then is it an objection that the old cluster still has a leader,
// or that another node was recovered too. Later the new incarnation may have
// acknowledged writes.
func judgeIncarnation(own disk.Identity, first bool, others map[string]introReply) objection {
	if by, id := successor(own, others); !by.IsZero() {
		return objection{errIncarnationEnded(own.Incarnation, by, id), by, true}
	}
	if first && len(own.Former) > 0 {
		for _, id := range slices.Sorted(maps.Keys(others)) {
			if err := rival(own, id, others[id]); err != nil {
				return objection{err, others[id].peer.Incarnation, true}
			}
		}
	}
	return objection{reason: foreign(own, others)}
}

// successor returns the newest of the incarnations that have ended own's, and a node
// of it.
func successor(own disk.Identity, others map[string]introReply) (by disk.Incarnation, node string) {
	most := -1
	for _, id := range slices.Sorted(maps.Keys(others)) {
		a := others[id]
		if a.err == nil && slices.Contains(a.said.Former, own.Incarnation) && len(a.said.Former) > most {
			most, by, node = len(a.said.Former), a.peer.Incarnation, id
		}
	}
	return by, node
}

func errIncarnationEnded(own, by disk.Incarnation, node string) error {
	return fmt.Errorf("%w: incarnation %v of the cluster has ended: node %s is of incarnation %v, which was recovered or restored from it", transport.ErrPeerRefused, own, node, by)
}

// rival returns an error if another node proves that this one should not have been
// recovered. Either the cluster that was given up has a leader, or another of its
// nodes was recovered as well.
func rival(own disk.Identity, id string, a introReply) error {
	switch {
	case a.err != nil || a.peer.Incarnation == own.Incarnation:
	case slices.Contains(own.Former, a.peer.Incarnation) && a.said.Leader != "":
		return fmt.Errorf("incarnation %v, which incarnation %v of this node was recovered or restored from, has not ended: node %s belongs to it and follows the leader %s: stop the nodes of one of the two", a.peer.Incarnation, own.Incarnation, id, a.said.Leader)
	case slices.ContainsFunc(a.said.Former, func(i disk.Incarnation) bool { return slices.Contains(own.Former, i) }):
		return fmt.Errorf("node %s is of incarnation %v, which was recovered or restored from the same incarnation as incarnation %v of this node. Only one node may be recovered: stop the nodes of one of the two", id, a.peer.Incarnation, own.Incarnation)
	}
	return nil
}

// formerOf returns the former incarnations of incarnation, as the others know them.
func formerOf(incarnation disk.Incarnation, others map[string]introReply) []disk.Incarnation {
	for _, id := range slices.Sorted(maps.Keys(others)) {
		if a := others[id]; a.err == nil && a.peer.Incarnation == incarnation && len(a.said.Former) > 0 {
			return a.said.Former
		}
	}
	return nil
}

// dropEnded removes the incarnations that a node of another one names as ended.
func dropEnded(found map[disk.Incarnation]introReply, others map[string]introReply) {
	for _, a := range others {
		if a.err != nil {
			continue
		}
		for _, i := range a.said.Former {
			delete(found, i)
		}
	}
}
