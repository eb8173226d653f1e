package transport

import (
	"strings"

	"github.com/hashicorp/raft"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
)

// To Raft a node whose data were lost is another server: its ID has the node's
// name and the life of its data, and its address has that life too, so that a
// connection reaches that very server or none. Raft's own proof then covers a
// node that lost its memory, because its old server has crashed for ever.
const lifeMark = "#"

// ServerID returns the ID of a server: node#life.
func ServerID(node string, life disk.Life) raft.ServerID {
	return raft.ServerID(LifeAddr(node, life))
}

// LifeAddr adds a life to an address, unless it is zero.
func LifeAddr(addr string, life disk.Life) string {
	if life == (disk.Life{}) {
		return addr
	}
	return addr + lifeMark + life.String()
}

// SplitServer returns the node and the life of a server. Neither a name nor an
// address has the mark.
func SplitServer(id raft.ServerID) (node string, life disk.Life) { return splitAddr(string(id)) }

// splitAddr returns an address and the life in it, which is zero if there is
// none.
func splitAddr(addr string) (plain string, life disk.Life) {
	plain, text, marked := strings.Cut(addr, lifeMark)
	if !marked {
		return plain, disk.Life{}
	}
	life, err := disk.ParseLife(text)
	if err != nil {
		return addr, disk.Life{} // no such address: it is refused where it is used
	}
	return plain, life
}

// PlainAddr returns an address without the life in it.
func PlainAddr(addr string) string {
	plain, _ := splitAddr(addr)
	return plain
}

// NodeOf returns the name of a server's node.
func NodeOf(id raft.ServerID) string {
	node, _ := SplitServer(id)
	return node
}
