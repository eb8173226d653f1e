package raftstore

import "time"

// HealthState says in a word whether a node takes part.
type HealthState string

const (
	// Well says that the node votes, and leads if it is elected.
	Well HealthState = "well"
	// Stalled says that a write to the disk has not returned for a second, or
	// is being repeated because it failed. The node neither votes nor
	// acknowledges entries; it answers reads and renewals while it leads.
	Stalled HealthState = "stalled"
	// SteppedOut says that the node led, is stalled, and left the lead to the
	// others, because a majority of the voters without it is well.
	SteppedOut HealthState = "stepped out"
	// Waiting says that the node waits for the first start of its cluster, which
	// needs every node of Peers.
	Waiting HealthState = "waiting"
	// Joining says that the node has no vote yet. It has everything, or gets it
	// from the leader.
	Joining HealthState = "joining"
	// NonVoting says that the node has everything and no vote, because it was added
	// with AddNonVoter, or an AddVoter did not end. It serves calls.
	NonVoting HealthState = "non-voting"
	// Removed says that the node was removed from the cluster. Its calls fail. It
	// joins with a new life when it is added again.
	Removed HealthState = "removed"
	// Lost says that the node must not use its data, because a part of them is
	// missing or damaged. It joins when the other nodes have a leader.
	Lost HealthState = "lost"
	// Replaced says that another life of the node has its place, or that a
	// recovery or a restore has ended its incarnation of the cluster. It takes no
	// part until it is started with Config.Rejoin.
	Replaced HealthState = "replaced"
	// Failed says that what the node stored is damaged, or cannot be read by
	// this release. It takes no part until it is restarted.
	Failed HealthState = "failed"
)

// Health says whether a node takes part in its cluster.
type Health struct {
	State HealthState
	// Since is how long the node has been in State.
	Since time.Duration
	// Err says why State is not Well, or what the node waits for.
	Err error
}
