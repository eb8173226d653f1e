package raftstore

import "time"

// HealthState is the extent to which a node takes part in its cluster.
type HealthState string

const (
	// Well means that the node votes, and leads if it is elected.
	Well HealthState = "well"
	// Stalled means that a write to the disk has not returned for a second, or is
	// being repeated because it failed. The node neither votes nor acknowledges
	// entries. It answers reads and renewals while it leads.
	Stalled HealthState = "stalled"
	// SteppedOut means that the node led, is stalled, and left the leadership to the
	// others, because a majority of the voters is well without it.
	SteppedOut HealthState = "stepped out"
	// Waiting means that the node waits for the first start of its cluster, which
	// needs every node of Peers.
	Waiting HealthState = "waiting"
	// Joining means that the node has no vote yet. It has all data, or gets them from
	// the leader.
	Joining HealthState = "joining"
	// NonVoting means that the node has all data and no vote, because it was added
	// with AddNonVoter, or an AddVoter did not complete. It serves calls.
	NonVoting HealthState = "non-voting"
	// Removed means that the node was removed from the cluster. Its calls fail. It
	// joins with a new life when it is added again.
	Removed HealthState = "removed"
	// Lost means that the node must not use its data, because a part of them is
	// missing or damaged. It joins when the other nodes have a leader.
	Lost HealthState = "lost"
	// Replaced means that another life of the node has its place, or that a recovery
	// or a restore has ended its incarnation of the cluster. The node takes no part
	// until it is started with Config.Rejoin.
	Replaced HealthState = "replaced"
	// Failed means that the stored data of the node are damaged, or that this release
	// cannot read them. The node takes no part until it is restarted.
	Failed HealthState = "failed"
)

// Health describes whether a node takes part in its cluster.
type Health struct {
	State HealthState
	// Since is the time for which the node has been in State.
	Since time.Duration
	// Err is the reason why State is not Well, or the event that the node awaits.
	Err error
}
