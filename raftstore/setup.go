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

// setupMessage is what a node says of itself to another one on a setup
// connection, whether it asks or answers. The hello before it has said who the
// node is, with its life and its incarnation.
type setupMessage struct {
	Standing standing `json:"standing"`
	// Founders are the lives that the cluster began with, as far as the node
	// knows them, and FounderAddrs their addresses.
	Founders     map[string]disk.Life `json:"founders,omitempty"`
	FounderAddrs map[string]string    `json:"founder_addrs,omitempty"`
	// Peers are the names in the node's list, while it waits for the first start.
	Peers []string `json:"peers,omitempty"`
	// Members are the nodes of the replicated configuration with their
	// addresses, if the node has one.
	Members map[string]string `json:"members,omitempty"`
	// Addr is the address at which the node believes to be reached, and Level the
	// newest feature level that it understands.
	Addr  string `json:"addr,omitempty"`
	Level byte   `json:"level,omitempty"`
	// Former are the incarnations that the node's was recovered or restored from.
	Former []disk.Incarnation `json:"former,omitempty"`
	// Leader is the node that this one takes for the Raft leader, or "".
	Leader string `json:"leader,omitempty"`
	// Last is the index of the newest entry in the node's log.
	Last uint64 `json:"last,omitempty"`
	// Added says that the node's log has an entry by which it was added.
	Added bool `json:"added,omitempty"`

	// What a leader answers, from a configuration that is committed:

	// Admitted says that the life that asks is in the configuration, Voter that it
	// is a voter.
	Admitted bool `json:"admitted,omitempty"`
	Voter    bool `json:"voter,omitempty"`
	// NonVoter says that it is in the configuration without a vote, and stays so
	// until somebody calls AddVoter.
	NonVoter bool `json:"non_voter,omitempty"`
	// Removed says that the node was removed: no life of it in the configuration is
	// the one that asks, or a voter.
	Removed bool `json:"removed,omitempty"`
	// Replaced is the life of the node that the committed configuration has
	// instead of the one that asks.
	Replaced disk.Life `json:"replaced,omitzero"`

	// What any member answers to a node that believes to be one:

	// Known is what messages of the asking node's life have proven that it had
	// stored.
	Known transport.Sighting `json:"known,omitzero"`
	// Seen is the newest start of the asking node's life that this one has
	// seen.
	Seen transport.Start `json:"seen,omitzero"`
}

// askSetup sends m to node id at addr, whatever its life and incarnation are, and
// returns its hello and its answer.
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

// met is what another node answered.
type met struct {
	peer transport.Hello
	said setupMessage
	err  error
}

// meet introduces this node to all others at once and returns their answers, by
// name. It takes as long as a dial may take. A node that does not answer at its
// address is asked at the one in Peers too, if that is another one.
func (n *node) meet(ctx context.Context) map[string]met {
	present, listed := n.memberAddrs()
	m := n.introduction()
	var found map[string]met
	var asked sync.WaitGroup
	asked.Go(func() { found = n.askAll(ctx, listed, m) })
	all := n.askAll(ctx, present, m)
	asked.Wait()
	n.learnAddrs(all, found, listed)
	return all
}

// askAll introduces this node to nodes at their addresses and returns the answers.
func (n *node) askAll(ctx context.Context, addrs map[string]string, m setupMessage) map[string]met {
	var mu sync.Mutex
	all := map[string]met{}
	var asked sync.WaitGroup
	for id, addr := range addrs {
		asked.Go(func() {
			var a met
			a.peer, a.said, a.err = n.askSetup(ctx, id, addr, m)
			mu.Lock()
			defer mu.Unlock()
			all[id] = a
		})
	}
	asked.Wait()
	return all
}

// learnAddrs takes over what the answers say of addresses, and adds to all the
// nodes that were found at the address in Peers only.
func (n *node) learnAddrs(all, found map[string]met, listed map[string]string) {
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

// introduction is what this node says of itself.
func (n *node) introduction() setupMessage {
	s := n.seat.look()
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

// answerSetup answers another node's introduction. A leader notes a node that
// waits to become a voter.
func (n *node) answerSetup(peer transport.Hello, m setupMessage) setupMessage {
	known := n.addrs()[peer.ID] != "" || n.config.peerAddr(peer.ID) != ""
	if known {
		n.seat.heard(peer, m)
	}
	// The name of a node that is not known was not proven.
	if (known || n.config.TLS == nil) && peer.Incarnation == n.net.Greeting().Incarnation {
		n.learnMembers(m.Members)
	}
	if addr := n.config.peerAddr(peer.ID); addr != "" && addr == m.Addr && n.roster.has(transport.ServerID(peer.ID, peer.Life)) {
		n.roster.found(peer.ID, addr) // the node and Peers agree on it
	}
	answer := n.introduction()
	answer.Seen = n.net.Seen(peer.Life)
	if part := n.member(); part != nil && m.Standing == standingMember && peer.Incarnation == n.net.Greeting().Incarnation {
		answer.Known = part.trans.Seen(transport.ServerID(peer.ID, peer.Life))
	}
	if n.lead.leading.Load() {
		n.joins.note(peer, m, &answer)
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
