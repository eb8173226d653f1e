package raftstore

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// roster has the addresses of the cluster's nodes. Those in the replicated configuration
// count. Until this node has a configuration, it uses Config.Peers and the answers of
// other nodes.
//
// An address is never more than a hint, because a connection is always to a node with a
// proven life and incarnation.
type roster struct {
	peers []Peer // Config.Peers

	mu      sync.Mutex
	servers []raft.Server     // the newest configuration that was seen
	learned map[string]string // named by other nodes, while Raft does not run or has no configuration
	// moved has the addresses in Peers of nodes that answer there and not at their
	// address in the configuration. If all nodes have moved, they find each other by
	// these addresses. Before that they cannot agree on a new configuration.
	moved   map[string]string
	cached  map[string]string // nil after a change
	changes uint64            // counts the changes of learned and moved
	differs []PeerDifference
}

// A PeerDifference is a node whose address in Config.Peers differs from that in the
// replicated configuration, or that is missing in one of the two.
type PeerDifference struct {
	ID string
	// Listed is the node's address in Peers, Member the one in the replicated
	// configuration. One of them is empty if the node is missing there.
	Listed, Member string
}

// String returns a sentence that describes d.
func (d PeerDifference) String() string {
	switch {
	case d.Member == "":
		return fmt.Sprintf("%s (%s) is in Peers and is no member", d.ID, d.Listed)
	case d.Listed == "":
		return fmt.Sprintf("%s (%s) is a member and is not in Peers", d.ID, d.Member)
	}
	return fmt.Sprintf("%s is at %s and Peers has %s", d.ID, d.Member, d.Listed)
}

// addrs returns the address of each node by its name. The caller must not change
// the map.
func (n *node) addrs() map[string]string {
	var latest []raft.Server
	if m := n.member(); m != nil {
		latest = m.servers()
	}
	return n.roster.addrs(latest)
}

func (r *roster) addrs(latest []raft.Server) map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(latest) > 0 && !sameServers(latest, r.servers) {
		before := membersOf(r.servers)
		r.servers, r.learned, r.cached = latest, nil, nil
		maps.DeleteFunc(r.moved, func(id, _ string) bool { return membersOf(latest)[id] != before[id] })
	}
	if r.cached == nil {
		r.cached = r.compile()
	}
	return r.cached
}

// compile makes the map. The caller holds the lock.
func (r *roster) compile() map[string]string {
	all := membersOf(r.servers)
	switch {
	case len(all) == 0:
		for _, p := range r.peers {
			all[p.ID] = p.Addr
		}
		maps.Copy(all, r.learned)
	case len(r.learned) > 0: // the configuration is an old one
		all = maps.Clone(r.learned)
	default:
		maps.Copy(all, r.moved)
	}
	return all
}

// membersOf returns the nodes of a configuration with their addresses. Of two lives
// of a node the later one counts.
func membersOf(servers []raft.Server) map[string]string {
	all := map[string]string{}
	for _, s := range servers {
		all[transport.NodeOf(s.ID)] = transport.PlainAddr(string(s.Address))
	}
	return all
}

// members returns the nodes of the newest configuration that was seen, or nil.
func (r *roster) members() map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.servers) == 0 {
		return nil
	}
	return membersOf(r.servers)
}

// has reports whether a server is in the newest configuration that was seen.
func (r *roster) has(id raft.ServerID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.servers, func(s raft.Server) bool { return s.ID == id })
}

// version changes whenever an address may have changed without a new configuration.
func (r *roster) version() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changes
}

// learnMembers adopts the members that another node of the cluster has named, unless
// this node has them from Raft.
func (n *node) learnMembers(members map[string]string) {
	m := n.member()
	if len(members) == 0 || m != nil && len(m.servers()) > 0 {
		return
	}
	n.roster.learn(members)
}

func (r *roster) learn(members map[string]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if maps.Equal(r.learned, members) {
		return
	}
	r.learned = maps.Clone(members)
	r.cached, r.changes = nil, r.changes+1
}

// found records that a node answers at addr, the address in Peers, and not at the one in
// the configuration. An empty addr records that it does not.
func (r *roster) found(id, addr string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.moved[id] == addr || r.moved[id] == "" && membersOf(r.servers)[id] == addr {
		return
	}
	if r.moved == nil {
		r.moved = map[string]string{}
	}
	if r.moved[id] = addr; addr == "" {
		delete(r.moved, id)
	}
	r.cached, r.changes = nil, r.changes+1
}

// differences returns the entries in which Peers and the configuration differ.
func (r *roster) differences() []PeerDifference {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.differs
}

// compare returns the entries in which Peers and the configuration differ, and reports
// whether they have changed since the last call. A single node without Peers has no
// list.
func (r *roster) compare() (differs []PeerDifference, news bool) {
	members := r.members()
	if members == nil || len(r.peers) == 0 && len(members) == 1 {
		return nil, false
	}
	listed := map[string]string{}
	for _, p := range r.peers {
		listed[p.ID] = p.Addr
	}
	all := maps.Clone(members)
	maps.Copy(all, listed)
	for _, id := range slices.Sorted(maps.Keys(all)) {
		if members[id] != listed[id] {
			differs = append(differs, PeerDifference{ID: id, Listed: listed[id], Member: members[id]})
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	news = !slices.Equal(r.differs, differs)
	r.differs = differs
	return differs, news
}

// comparePeers logs the entries in which Peers and the configuration differ, once.
func (n *node) comparePeers() {
	differs, news := n.roster.compare()
	if !news || len(differs) == 0 {
		return
	}
	texts := make([]string, 0, len(differs))
	for _, d := range differs {
		texts = append(texts, d.String())
	}
	n.log.Warn("Peers differs from the members of the cluster, which take precedence: correct Peers before the next start", "differences", strings.Join(texts, "; "))
}

// memberAddrs returns the addresses at which other nodes should be asked. present are
// those in use, and listed are those in Peers that differ from them.
func (n *node) memberAddrs() (present, listed map[string]string) {
	present, listed = maps.Clone(n.addrs()), map[string]string{}
	delete(present, n.config.ID)
	for _, p := range n.config.Peers {
		if p.ID != n.config.ID && present[p.ID] != p.Addr {
			listed[p.ID] = p.Addr
		}
	}
	return present, listed
}
