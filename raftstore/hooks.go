package raftstore

import (
	"github.com/hashicorp/raft"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
)

// hooks are the replaceable parts of a node and of a client. Tests replace some of those
// that defaultHooks returns.
type hooks struct {
	// files is the file system of the data directory.
	files disk.FS
	// transport wraps the transport of Raft.
	transport func(raft.Transport) raft.Transport
	// calls wraps the connections on which a node calls nodes, and network those on
	// which a client does.
	calls   func(caller) caller
	network func(clientNetwork) clientNetwork
	// adjust changes the settings of Raft.
	adjust func(*raft.Config)
	// segmentBytes is the size of a segment of the log, 0 for the default.
	segmentBytes int64
}

func defaultHooks() hooks {
	return hooks{
		files:     disk.OS{},
		transport: func(t raft.Transport) raft.Transport { return t },
		calls:     func(c caller) caller { return c },
		network:   func(n clientNetwork) clientNetwork { return n },
		adjust:    func(*raft.Config) {},
	}
}
