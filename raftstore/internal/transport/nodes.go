package transport

import (
	"fmt"

	"github.com/hashicorp/raft"
)

// UseNodes makes nodes the source of the addresses of the cluster's nodes, by
// their names. It is called for each connection and must not block.
func (n *Network) UseNodes(nodes func() map[string]string) { n.nodes.Store(&nodes) }

// addrOf returns the present address of a node, or "" if it is not known.
func (n *Network) addrOf(node string) string {
	if node == n.config.ID {
		return n.self
	}
	return (*n.nodes.Load())()[node]
}

// nodeAt returns the node whose address this is, or "".
func (n *Network) nodeAt(addr string) string {
	for id, at := range (*n.nodes.Load())() {
		if at == addr {
			return id
		}
	}
	return ""
}

// certNames returns the names one of which the certificate of node id must be
// valid for. The address in the settings counts as well as the one that the nodes
// have agreed on: if all nodes have moved, they cannot agree on anything before
// they have found each other.
func (n *Network) certNames(id string) []string {
	var names []string
	for _, addr := range []string{n.addrOf(id), n.config.Peers[id]} {
		if name := n.config.certName(id, addr); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// ServerAddr returns the address of a server: the present one of its node, not the
// one in an old log entry, and its life. It makes the network a
// raft.ServerAddressProvider.
func (n *Network) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	node, life := SplitServer(id)
	addr := n.addrOf(node)
	if addr == "" {
		return "", fmt.Errorf("the address of node %q is not known", node)
	}
	return raft.ServerAddress(LifeAddr(addr, life)), nil
}
