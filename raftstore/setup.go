package raftstore

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// setupMessage is a node's description of itself for another node, in a question or an
// answer on a setup connection. The hello before it has the name, the life and the
// incarnation of the node.
type setupMessage struct {
	Standing standing `json:"standing"`
	// Founders are the lives with which the cluster began, as far as the node knows
	// them, and FounderAddrs their addresses.
	Founders     map[string]disk.Life `json:"founders,omitempty"`
	FounderAddrs map[string]string    `json:"founder_addrs,omitempty"`
	// Peers are the names in the node's list, while it waits for the first start.
	Peers []string `json:"peers,omitempty"`
	// Members are the nodes of the replicated configuration with their
	// addresses, if the node has one.
	Members map[string]string `json:"members,omitempty"`
	// Addr is the node's own address as it knows it, and Level the newest feature level
	// that it understands.
	Addr  string `json:"addr,omitempty"`
	Level byte   `json:"level,omitempty"`
	// Former are the incarnations from which the node's was recovered or restored.
	Former []disk.Incarnation `json:"former,omitempty"`
	// Leader is the Raft leader that the node knows, or "".
	Leader string `json:"leader,omitempty"`
	// Last is the index of the newest entry in the node's log.
	Last uint64 `json:"last,omitempty"`
	// Added is true if the node's log has an entry by which it was added.
	Added bool `json:"added,omitempty"`

	// The fields below are in the answer of a leader, from a committed configuration.

	// Admitted is true if the life that asks is in the configuration, Voter if it is a
	// voter there.
	Admitted bool `json:"admitted,omitempty"`
	Voter    bool `json:"voter,omitempty"`
	// NonVoter is true if it is in the configuration without a vote, and stays so until
	// AddVoter is called.
	NonVoter bool `json:"non_voter,omitempty"`
	// Removed is true if the node was removed. No life of it in the configuration is the
	// one that asks, or a voter.
	Removed bool `json:"removed,omitempty"`
	// Replaced is the life of the node that the committed configuration has
	// instead of the one that asks.
	Replaced disk.Life `json:"replaced,omitzero"`

	// The fields below are in the answer of any member to a node that takes part as a
	// member.

	// Proven has the term and the log that the asking node's life had stored, as its
	// messages have proven.
	Proven transport.ProvenState `json:"known,omitzero"`
	// Seen is the newest start of the asking node's life that this one has seen.
	Seen transport.Start `json:"seen,omitzero"`
}

// askSetup sends m to node id at addr, with any life and incarnation, and returns its
// hello and its answer.
func (n *node) askSetup(ctx context.Context, id, addr string, m setupMessage) (peer transport.Hello, answer setupMessage, err error) {
	body, err := json.Marshal(m)
	if err != nil {
		return transport.Hello{}, answer, err
	}
	peer, body, err = n.net.Ask(ctx, id, addr, body)
	if err != nil {
		return transport.Hello{}, answer, err
	}
	if answer, err = decodeSetup(body); err != nil {
		return transport.Hello{}, answer, fmt.Errorf("%s: %w", transport.PlainAddr(addr), err)
	}
	return peer, answer, nil
}

// serveSetup answers a setup connection of another node.
func (n *node) serveSetup(peer transport.Hello, body []byte) ([]byte, error) {
	m, err := decodeSetup(body)
	if err != nil {
		return nil, err
	}
	return json.Marshal(n.answerSetup(peer, m))
}

func decodeSetup(body []byte) (m setupMessage, err error) {
	if err := json.Unmarshal(body, &m); err != nil {
		return setupMessage{}, fmt.Errorf("malformed message: %w", err)
	}
	return m, nil
}

// introReply is the answer of another node.
type introReply struct {
	peer transport.Hello
	said setupMessage
	err  error
}

// introduce introduces this node to all others at once and returns their answers, by name. It
// may take as long as a dial. A node that has another address in Peers is asked there
// too, and that answer counts if there is none from its own address.
func (n *node) introduce(ctx context.Context) map[string]introReply {
	present, listed := n.memberAddrs()
	m := n.introduction()
	var found map[string]introReply
	var asked sync.WaitGroup
	asked.Go(func() { found = n.askAll(ctx, listed, m) })
	all := n.askAll(ctx, present, m)
	asked.Wait()
	n.learnAddrs(all, found, listed)
	return all
}

// askAll introduces this node to nodes at their addresses and returns the answers.
func (n *node) askAll(ctx context.Context, addrs map[string]string, m setupMessage) map[string]introReply {
	var mu sync.Mutex
	all := map[string]introReply{}
	var asked sync.WaitGroup
	for id, addr := range addrs {
		asked.Go(func() {
			var a introReply
			a.peer, a.said, a.err = n.askSetup(ctx, id, addr, m)
			mu.Lock()
			defer mu.Unlock()
			all[id] = a
		})
	}
	asked.Wait()
	return all
}

// learnAddrs adopts the addresses in the answers, and adds the nodes to all that answer
// only at their address in Peers.
func (n *node) learnAddrs(all, found map[string]introReply, listed map[string]string) {
	for id, a := range all {
		if a.err != nil {
			n.roster.found(id, "")
		}
	}
	for id, a := range found {
		if now, asked := all[id]; asked && now.err == nil || a.err != nil {
			continue
		}
		all[id] = a
		if n.roster.has(transport.ServerID(id, a.peer.Life)) {
			n.roster.found(id, listed[id])
		}
	}
	own := n.net.Greeting().Incarnation
	for _, a := range all {
		if a.err == nil && !a.peer.Incarnation.IsZero() && (own.IsZero() || a.peer.Incarnation == own) {
			n.learnMembers(a.said.Members)
		}
	}
}

// introduction returns this node's description of itself.
func (n *node) introduction() setupMessage {
	s := n.participation.get()
	m := setupMessage{
		Standing: s.standing, Founders: s.identity.Founders, FounderAddrs: s.identity.Addrs, Former: s.identity.Former,
		Addr: n.net.Addr(), Level: state.Level,
	}
	if s.standing == standingFresh {
		m.Peers = n.config.memberIDs()
	}
	if part := n.member(); part != nil {
		servers := part.servers()
		m.Last, m.Members, m.Added = part.raft.LastIndex(), membersOf(servers), len(servers) > 0
		if _, id := part.raft.LeaderWithID(); id != "" {
			m.Leader = transport.NodeOf(id)
		}
	}
	return m
}

// answerSetup answers another node's introduction. A leader records a node that waits to
// become a voter.
func (n *node) answerSetup(peer transport.Hello, m setupMessage) setupMessage {
	known := n.addrs()[peer.ID] != "" || n.config.peerAddr(peer.ID) != ""
	if known {
		n.participation.notePeer(peer, m)
	}
	// The name of an unknown node was not proven.
	if (known || n.config.TLS == nil) && peer.Incarnation == n.net.Greeting().Incarnation {
		n.learnMembers(m.Members)
	}
	if addr := n.config.peerAddr(peer.ID); addr != "" && addr == m.Addr && n.roster.has(transport.ServerID(peer.ID, peer.Life)) {
		n.roster.found(peer.ID, addr) // the node and Peers agree on it
	}
	answer := n.introduction()
	answer.Seen = n.net.Seen(peer.Life)
	if part := n.member(); part != nil && m.Standing == standingMember && peer.Incarnation == n.net.Greeting().Incarnation {
		answer.Proven = part.trans.Proven(transport.ServerID(peer.ID, peer.Life))
	}
	if n.lead.leading.Load() {
		n.reconfigurer.note(peer, m, &answer)
	}
	// P2: a leader of the past may not know that the node was added.
	if no := answer.Removed || !answer.Replaced.IsZero(); no && !n.confirmsLead() {
		answer.Removed, answer.Replaced = false, disk.Life{}
	}
	return answer
}

// confirmsLead reports whether this node still led after the call was made.
func (n *node) confirmsLead() bool {
	ctx, cancel := context.WithTimeout(n.life, n.questionTime())
	defer cancel()
	return n.lead.confirmed(ctx, "", 0) == nil
}
