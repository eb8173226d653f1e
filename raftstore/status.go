package raftstore

import (
	"time"

	"github.com/hashicorp/raft"

	"github.com/holdfast-dcs/holdfast/keepalive"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// Status is one node's view of itself and of the cluster, for operators and metrics.
// Programs must not base decisions about the cluster's state on it, because only Get and
// Snapshot are confirmed by the quorum.
type Status struct {
	// ID and Addr are this node's.
	ID   string
	Addr string
	// LeaderID and LeaderAddr are those of the Raft leader that this node knows, empty
	// if it knows none.
	LeaderID   string
	LeaderAddr string
	// Incarnation names the founding of the cluster to which this node belongs. It is
	// empty until the first start is complete.
	Incarnation string
	// Life names the data in this node's directory. A node that lost its data gets
	// another life.
	Life string
	// Health describes whether this node takes part, with the reason if it does not.
	Health Health
	// State is "Follower", "Candidate", "Leader" or "Shutdown".
	State string
	// Term is the current Raft term of this node.
	Term uint64
	// LastLog is the index of the last entry in this node's log, Committed of
	// the last one known to be committed, Applied of the last one that its
	// state contains.
	LastLog   uint64
	Committed uint64
	Applied   uint64
	// LastContact is the time since the last message of the leader. It is 0 on the
	// leader itself, and NeverContacted if there was none since the start.
	LastContact time.Duration
	// Disk describes the durable writes of the node's log.
	Disk DiskStatus
	// Voters are the nodes that make the quorum, as this node knows them.
	Voters []Peer
	// Members are all nodes of the replicated configuration, as this node knows
	// it. Their lag and last contact are known only on the leader.
	Members []Member
	// PeersDiffer are the entries in which Config.Peers differs from the replicated
	// configuration, which counts. Correct them before the next start.
	PeersDiffer []PeerDifference
	// Elections counts the elections in which this node was a candidate since its
	// start, and LeaderChanges the changes of the leader that it has seen.
	Elections     uint64
	LeaderChanges uint64
	// Snapshot is the newest snapshot of the node.
	Snapshot SnapshotStatus
	// Conns are the established connections with other nodes.
	Conns []ConnStatus
	// Clients is the number of established connections of clients.
	Clients int
}

// NeverContacted is the LastContact of a node that has had no contact since it was
// started.
const NeverContacted time.Duration = -1

// SnapshotStatus describes the newest snapshot of a node's state.
type SnapshotStatus struct {
	// Index is the last log entry in it, 0 without one.
	Index uint64
	// Age is the time since the snapshot was made, to a second, or since the start of
	// the node if the snapshot is older.
	Age time.Duration
}

// DiskStatus describes a node's durable writes. Times include fsync.
type DiskStatus struct {
	// Writes counts the durable writes since the start.
	Writes uint64
	// Last, Mean and Max are times of completed writes. Mean is weighted towards
	// recent ones.
	Last time.Duration
	Mean time.Duration
	Max  time.Duration
	// Faults counts the failed attempts, each of which was repeated.
	Faults uint64
	// Fault is the failure of a write that is being repeated, or nil.
	Fault error
	// LogBytes and SnapshotBytes are the sizes of the log and of the snapshots.
	LogBytes      int64
	SnapshotBytes int64
	// Pending is the age of the oldest write that has not returned, or 0 if there is
	// none.
	Pending time.Duration
}

// ConnStatus describes one established connection.
type ConnStatus struct {
	// Peer is the other node's ID.
	Peer string
	// Remote is the other end's address as reported by the socket.
	Remote string
	// Kind is "raft" or "call".
	Kind string
	// Dialled is true if this node made the connection.
	Dialled bool
	// Keepalive has the settings of the socket, or is zero if the system cannot
	// report them.
	Keepalive keepalive.Config
}

// newStatus assembles a Status from the node's parts. Applied is that of the state
// itself, because Raft knows it only roughly.
func newStatus(n *node) Status {
	part := n.participation.get()
	health, disk := n.health.status()
	if place := part.health(); place.State != Well {
		health = place
	}
	s := Status{
		ID: n.config.ID, Addr: n.net.Addr(),
		Incarnation: incarnationText(part.identity.Incarnation), Life: part.life.String(), Health: health, Disk: disk,
		State: raft.Follower.String(), Applied: n.state.Applied(),
		LastContact: NeverContacted, Conns: n.conns(), Clients: n.net.Clients(),
		PeersDiffer: n.roster.differences(), Elections: n.elections.Load(), LeaderChanges: n.leaderChanges.Load(),
	}
	if m := n.member(); m != nil {
		m.addTo(&s)
	}
	return s
}

func incarnationText(i disk.Incarnation) string {
	if i.IsZero() {
		return ""
	}
	return i.String()
}

// addTo fills in the fields that the member knows.
func (m *member) addTo(s *Status) {
	r := m.raft
	s.State, s.Term = r.State().String(), r.CurrentTerm()
	s.Committed, s.LastContact = r.CommitIndex(), lastContact(r)
	s.Disk.LogBytes, s.Disk.SnapshotBytes = m.log.Bytes(), m.snaps.Bytes()
	s.LastLog = r.LastIndex() // read last, so that it is never behind Committed
	if _, id := r.LeaderWithID(); id != "" {
		s.LeaderID, s.LeaderAddr = transport.NodeOf(id), transport.PlainAddr(m.node.leaderAddr())
	}
	if seen := m.snapshotSeen.Load(); seen != nil {
		s.Snapshot = SnapshotStatus{Index: seen.index, Age: seen.at.Elapsed()}
	}
	s.Members = m.members()
	for _, one := range s.Members {
		if one.Voter {
			s.Voters = append(s.Voters, Peer{ID: one.ID, Addr: one.Addr})
		}
	}
}

func lastContact(r *raft.Raft) time.Duration {
	if r.State() == raft.Leader {
		return 0
	}
	at := r.LastContact()
	if at.IsZero() {
		return NeverContacted
	}
	return time.Since(at)
}

// conns describes the established connections.
func (n *node) conns() []ConnStatus {
	var list []ConnStatus
	for _, c := range n.net.Conns() {
		list = append(list, ConnStatus(c))
	}
	return list
}
