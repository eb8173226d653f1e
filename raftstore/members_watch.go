package raftstore

import (
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// wakeWatch makes watchMembers check the configuration.
func (m *member) wakeWatch() {
	select {
	case m.batch <- struct{}{}:
	default:
	}
}

// watchMembers reports the committed changes of the members, until the member ends. It
// does not report those that the log had at the start, which were reported before.
func (m *member) watchMembers() {
	n := m.node
	old := m.raft.LastIndex()
	known := m.committed()
	n.roster.addrs(m.servers())
	n.comparePeers()
	for {
		select {
		case <-m.batch:
		case <-m.life.Done():
			return
		}
		now := m.committed()
		if now.index == known.index {
			continue
		}
		n.roster.addrs(m.servers())
		if len(known.servers) > 0 && now.index > old {
			n.reportMembers(known.servers, now.servers)
		}
		known = now
		n.comparePeers()
	}
}

// reportMembers logs the changes of the members and reports them to the Observer.
func (n *node) reportMembers(before, now []raft.Server) {
	was, is := byNode(before), byNode(now)
	for _, id := range sortedKeys(is) {
		s, old := is[id], was[id]
		_, knew := was[id]
		addr, oldAddr := transport.PlainAddr(string(s.Address)), transport.PlainAddr(string(old.Address))
		switch {
		case !knew:
			n.reportMember(dcs.Added, id, addr, "added "+suffrageText(s))
		case addr != oldAddr:
			n.reportMember(dcs.Removed, id, oldAddr, "moved to "+addr)
			n.reportMember(dcs.Added, id, addr, "moved from "+oldAddr)
		case s.ID != old.ID:
			n.reportMember(dcs.Added, id, addr, "has a new life, "+suffrageText(s))
		case s.Suffrage != old.Suffrage:
			n.reportMember(dcs.Added, id, addr, "is now "+suffrageText(s))
		}
	}
	for _, id := range sortedKeys(was) {
		if _, still := is[id]; !still {
			n.reportMember(dcs.Removed, id, transport.PlainAddr(string(was[id].Address)), "removed")
		}
	}
}

func suffrageText(s raft.Server) string {
	if isVoter(s) {
		return "a voter"
	}
	return "without a vote"
}

// byNode returns the newest server of each node.
func byNode(servers []raft.Server) map[string]raft.Server {
	all := map[string]raft.Server{}
	for _, s := range servers {
		all[transport.NodeOf(s.ID)] = s
	}
	return all
}

func (n *node) reportMember(change dcs.EndpointChange, id, addr, reason string) {
	n.log.Info("members of the cluster have changed", "node", id, "addr", addr, "change", reason)
	if n.config.Observer.Endpoint != nil {
		n.config.Observer.Endpoint(dcs.EndpointEvent{
			Backend: backendName, Change: change, From: addr, Reason: fmt.Sprintf("node %s: %s", id, reason),
		})
	}
}
