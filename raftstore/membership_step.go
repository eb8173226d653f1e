package raftstore

import (
	"slices"

	"github.com/hashicorp/raft"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// placement is the place that a life of a node must get in the configuration.
type placement struct {
	id, addr string
	life     disk.Life
	voter    bool
}

// isVotersNode reports whether a node with these lives must have a vote. Of several lives
// without a vote one must get it, unless one is marked.
func isVotersNode(lives []raft.Server) bool {
	if slices.ContainsFunc(lives, isWithoutVote) {
		return slices.ContainsFunc(lives, isVoter)
	}
	return len(lives) > 1 || slices.ContainsFunc(lives, isVoterToBe)
}

// isWithoutVote reports whether the address of a server does not include its life. That
// marks a lost life whose node keeps no vote. It has no effect on connections, which go to
// the life in the server's name. Raft does not accept two servers with one address.
func isWithoutVote(s raft.Server) bool {
	return string(s.Address) == transport.PlainAddr(string(s.Address))
}

// stepKind is a kind of change of the configuration. Its text is the log message.
type stepKind string

const (
	stepMark          stepKind = "configuration change: mark a lost life as one without a vote"
	stepAdd           stepKind = "configuration change: add a server without a vote"
	stepDemote        stepKind = "configuration change: take the vote from a lost life"
	stepVote          stepKind = "configuration change: give a server its vote"
	stepRemove        stepKind = "configuration change: remove a lost life"
	stepAddress       stepKind = "configuration change: set the address of a server"
	stepVotersAddress stepKind = "configuration change: set the address of a voter"
)

// configStep is one change of the configuration.
type configStep struct {
	kind   stepKind
	server raft.ServerID
	addr   raft.ServerAddress
}

// next returns the next change of the configuration for e, given the node's lives in it, or
// false if there is none. It depends on nothing else, so that the next leader continues
// where this one stopped.
func (e placement) next(lives []raft.Server) (step configStep, more bool) {
	own, addr := transport.ServerID(e.id, e.life), serverAddr(e.addr, e.life)
	at := slices.IndexFunc(lives, func(s raft.Server) bool { return s.ID == own })
	voter := slices.IndexFunc(lives, isVoter)
	marked := slices.IndexFunc(lives, isWithoutVote)
	switch {
	case at < 0 && !e.voter && len(lives) > 0 && marked < 0:
		return configStep{stepMark, lives[0].ID, serverAddr(e.addr, disk.Life{})}, true
	case at < 0:
		return configStep{stepAdd, own, addr}, true
	case e.voter && !isVoter(lives[at]) && voter >= 0:
		return configStep{stepDemote, lives[voter].ID, ""}, true
	case e.voter && !isVoter(lives[at]):
		return configStep{stepVote, own, addr}, true
	case len(lives) > 1: // the mark counts until no other life is left
		old := slices.IndexFunc(lives, func(s raft.Server) bool { return s.ID != own && !isWithoutVote(s) })
		if old < 0 {
			old = (at + 1) % len(lives)
		}
		return configStep{stepRemove, lives[old].ID, ""}, true
	case lives[at].Address != addr && isVoter(lives[at]):
		return configStep{stepVotersAddress, own, addr}, true
	case lives[at].Address != addr:
		return configStep{stepAddress, own, addr}, true
	}
	return configStep{}, false
}

// make proposes the change and waits for the outcome.
func (s configStep) make(m *member, prev uint64) error {
	if slices.ContainsFunc(m.servers(), func(other raft.Server) bool {
		return other.ID == s.server && s.addr != "" && s.addr != other.Address && s.server != m.id
	}) {
		defer m.addresses.begin(m.life, s.server, s.addr)()
	}
	return s.propose(m.raft, prev).Error()
}

// propose proposes the change to Raft, which refuses it if the configuration at prev
// is not the latest one.
func (s configStep) propose(r *raft.Raft, prev uint64) raft.IndexFuture {
	switch s.kind {
	case stepDemote:
		return r.DemoteVoter(s.server, prev, configTimeout)
	case stepRemove:
		return r.RemoveServer(s.server, prev, configTimeout)
	case stepVote, stepVotersAddress:
		return r.AddVoter(s.server, s.addr, prev, configTimeout)
	case stepMark, stepAdd, stepAddress:
	}
	return r.AddNonvoter(s.server, s.addr, prev, configTimeout)
}
