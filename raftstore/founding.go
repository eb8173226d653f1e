package raftstore

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/raft"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// A cluster is founded once. Every node of Peers must run with an empty directory at
// the same time. Then the node with the lowest name draws the incarnation and makes
// the list of all their lives. The others take both from any node that has them. A
// node whose life is in the list is a founder. Once every node has stored the
// incarnation, or another founder knows that, a founder writes the first log entry,
// which makes all founders voters and is the same on each of them. Any other node
// joins (see reconfigurer).
//
// So no node votes before every node has been seen without data, and each node knows
// of the cluster before the first entry is acknowledged. If a majority loses its data
// later, it starts no second cluster, whichever node is left. A founder that learns
// of the founding late still has the listed life, so it has lost no data.

// foundStep goes one step towards the first start, given the answers of the others. A
// nil error means that the node has an incarnation now.
func (n *node) foundStep(others map[string]introReply) error {
	own := n.participation.get().identity
	own.Owner = n.dir.owner
	own, err := firstStart(own, n.config.Peers, others)
	if err != nil {
		return err
	}
	return n.enter(own)
}

// firstStart returns the identity that a node without an incarnation takes, given the
// latest answers of the others. The error names the nodes that are waited for.
func firstStart(own disk.Identity, peers []Peer, others map[string]introReply) (disk.Identity, error) {
	incarnation, said, err := founded(others)
	own.Incarnation, own.Founders, own.Addrs, own.Former = incarnation, said.Founders, said.FounderAddrs, formerOf(incarnation, others)
	if err != nil || !incarnation.IsZero() {
		return own, err
	}
	own.Founders, err = freshNodes(own, peers, others)
	own.Incarnation, own.Addrs = disk.NewIncarnation(), map[string]string{}
	for _, p := range peers {
		own.Addrs[p.ID] = p.Addr
	}
	return own, err
}

// founded returns the incarnation of the other nodes, zero if none of them has one,
// and a message that describes its founding. Of several incarnations it is the one
// that has not ended, else that of the nodes that know a leader.
func founded(others map[string]introReply) (disk.Incarnation, setupMessage, error) {
	found := map[disk.Incarnation]introReply{}
	for _, id := range slices.Sorted(maps.Keys(others)) {
		a := others[id]
		if a.err != nil || a.peer.Incarnation.IsZero() {
			continue
		}
		known, twice := found[a.peer.Incarnation]
		if !twice || known.said.Leader == "" && a.said.Leader != "" || len(known.said.Founders) == 0 {
			if len(a.said.Founders) == 0 {
				a.said.Founders, a.said.FounderAddrs = known.said.Founders, known.said.FounderAddrs
			}
			found[a.peer.Incarnation] = a
		}
	}
	dropEnded(found, others)
	led := maps.Clone(found)
	maps.DeleteFunc(led, func(_ disk.Incarnation, a introReply) bool { return a.said.Leader == "" })
	if len(found) > 1 && len(led) == 1 {
		found = led
	}
	if len(found) > 1 {
		return disk.Incarnation{}, setupMessage{}, fmt.Errorf("the other nodes belong to different incarnations of the cluster: %s", describeIncarnations(others))
	}
	for incarnation, a := range found {
		return incarnation, a.said, nil
	}
	return disk.Incarnation{}, setupMessage{}, nil
}

func describeIncarnations(others map[string]introReply) string {
	var list []string
	for _, id := range slices.Sorted(maps.Keys(others)) {
		if a := others[id]; a.err == nil && !a.peer.Incarnation.IsZero() {
			list = append(list, fmt.Sprintf("%s has %v", id, a.peer.Incarnation))
		}
	}
	return strings.Join(list, ", ")
}

// freshNodes returns the lives of all nodes, if all were just seen without an
// incarnation and this node is the one that draws it. Else the error names the nodes
// that the cluster waits for.
func freshNodes(own disk.Identity, peers []Peer, others map[string]introReply) (map[string]disk.Life, error) {
	names := (Config{ID: own.Node, Peers: peers}).memberIDs()
	lives := map[string]disk.Life{own.Node: own.Life}
	there := []string{own.Node}
	var missing []string
	for _, p := range peers {
		a := others[p.ID]
		switch {
		case p.ID == own.Node:
		case a.err != nil || a.peer.ID != p.ID:
			missing = append(missing, fmt.Sprintf("%s (%s)", p.ID, p.Addr))
		case a.said.Standing != standingFresh || a.peer.Life.IsZero():
			missing = append(missing, fmt.Sprintf("%s (%s), which has data (%s)", p.ID, p.Addr, a.said.Standing))
		case !slices.Equal(a.said.Peers, names):
			missing = append(missing, fmt.Sprintf("%s (%s), whose Peers has %s and not %s", p.ID, p.Addr, strings.Join(a.said.Peers, ", "), strings.Join(names, ", ")))
		default:
			lives[p.ID] = a.peer.Life
			there = append(there, p.ID)
		}
	}
	if len(missing) > 0 {
		slices.Sort(there)
		return nil, &firstStartError{there: there, missing: missing}
	}
	if first := slices.Min(names); first != own.Node {
		return nil, &firstStartError{drawer: first}
	}
	return lives, nil
}

// firstStartError reports the nodes for which the first start waits.
type firstStartError struct {
	there, missing []string
	drawer         string // all are present, and this one begins
}

// Error implements error.
func (e *firstStartError) Error() string {
	if e.drawer != "" {
		return fmt.Sprintf("the cluster waits for its first start, which node %s must begin", e.drawer)
	}
	be := "are"
	if len(e.there) == 1 {
		be = "is"
	}
	return fmt.Sprintf("the cluster waits for its first start: %s %s present, waiting for %s: start every node of Peers once", strings.Join(e.there, ", "), be, strings.Join(e.missing, ", "))
}

// enter makes the node take part in the cluster with this identity. After a crash
// that follows the write, the next start completes it.
func (n *node) enter(own disk.Identity) error {
	if err := n.dir.writeIdentity(own); err != nil {
		return err
	}
	n.settle(own)
	if own.IsFounder() {
		n.log.Info("cluster was founded", "incarnation", own.Incarnation, "nodes", own.Members)
	} else {
		n.log.Info("node joins the cluster", "incarnation", own.Incarnation, "life", own.Life)
	}
	return nil
}

// settle makes own the identity that this node presents to the others.
func (n *node) settle(own disk.Identity) {
	n.participation.change(func(s *participationState) {
		s.identity, s.life, s.waits = own, own.Life, nil
		s.standing = standingJoining
		if own.IsFounder() {
			s.standing = standingFounding
		}
	})
	n.net.Become(func(h *transport.Hello) { h.Incarnation, h.Life, h.Boot = own.Incarnation, own.Life, n.boot })
}

// firstEntry returns the entry with which every founder's log begins.
func (n *node) firstEntry(own disk.Identity) *raft.Log {
	return &raft.Log{
		Index: 1, Term: 1, Type: raft.LogConfiguration,
		Data:       raft.EncodeConfiguration(n.founders(own)),
		Extensions: state.FoundingExtensions(own.Incarnation),
	}
}

// founders returns the configuration with which the cluster begins.
func (n *node) founders(own disk.Identity) raft.Configuration {
	var c raft.Configuration
	for _, id := range slices.Sorted(maps.Keys(own.Founders)) {
		c.Servers = append(c.Servers, raft.Server{
			ID:      transport.ServerID(id, own.Founders[id]),
			Address: serverAddr(cmp.Or(own.Addrs[id], n.nodeAddr(id)), own.Founders[id]),
		})
	}
	return c
}

// serverAddr returns the address of a server in the configuration. It includes the
// life, so that the addresses of an old and a new life of one node differ, as Raft
// demands.
func serverAddr(addr string, life disk.Life) raft.ServerAddress {
	return raft.ServerAddress(transport.LifeAddr(addr, life))
}

// nodeAddr returns the present address of a node, or "".
func (n *node) nodeAddr(id string) string {
	if id == n.config.ID {
		return n.net.Addr()
	}
	return n.addrs()[id]
}

// begin restores the standing that the node's directory records.
func (n *node) begin() error {
	found := n.dir.state
	own := found.Identity
	switch found.Condition {
	case disk.Short, disk.Damaged:
		return n.loseOwn(found.Reason, own.Incarnation)
	case disk.Fresh:
		n.participation.change(func(s *participationState) { s.standing, s.identity, s.life = standingFresh, own, own.Life })
		n.net.Become(func(h *transport.Hello) { h.Life = own.Life })
		if n.config.single() {
			if err := n.foundStep(nil); err != nil {
				return err
			}
			return n.startFounder(nil)
		}
		return nil
	case disk.Founder:
		n.settle(own)
		if n.config.single() {
			return n.startFounder(nil)
		}
		return nil
	case disk.Complete:
		if lost, err := n.mayVote(own); lost || err != nil {
			return err
		}
	case disk.Joiner:
	}
	n.settle(own)
	n.participation.change(func(s *participationState) { s.standing = standingJoining })
	return n.startVoter()
}

// startFounder starts Raft on a founder if every node is known to have stored
// the incarnation.
func (n *node) startFounder(others map[string]introReply) error {
	if err := allFounded(n.participation.get().identity, others); err != nil {
		return err
	}
	return n.startVoter()
}

// allFounded returns an error with the nodes that have not stored the incarnation of
// this founder. It returns nil if one of the others is a founder that votes already,
// because that one has seen all of them.
func allFounded(own disk.Identity, others map[string]introReply) error {
	there := []string{own.Node}
	var missing []string
	for _, id := range slices.Sorted(maps.Keys(own.Founders)) {
		a, asked := others[id]
		founded := asked && a.err == nil && a.peer.ID == id && a.peer.Incarnation == own.Incarnation
		switch {
		case id == own.Node:
		case founded && a.said.Standing == standingMember:
			return nil
		case founded:
			there = append(there, id)
		default:
			missing = append(missing, fmt.Sprintf("%s (%s)", id, own.Addrs[id]))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(there)
	return &firstStartError{there: there, missing: missing}
}
