package raftstore

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// setupMessage is what a node says of itself to another one on a setup
// connection, whether it asks or answers. The hello before it has said who the
// node is, with its life and its incarnation.
type setupMessage struct {
	Standing standing `json:"standing"`
	// Founders are the lives that the cluster began with, as far as the node
	// knows them.
	Founders map[string]disk.Life `json:"founders,omitempty"`
	// Former are the incarnations that the node's was recovered or restored from.
	Former []disk.Incarnation `json:"former,omitempty"`
	// Leader is the node that this one takes for the Raft leader, or "".
	Leader string `json:"leader,omitempty"`
	// Last is the index of the newest entry in the node's log.
	Last uint64 `json:"last,omitempty"`

	// What a leader answers to a node that is not a voter:

	// Admitted says that no other life of the node is in the configuration, by
	// an entry that is committed.
	Admitted bool `json:"admitted,omitempty"`
	// Voter says that the node is a voter, by an entry that is committed.
	Voter bool `json:"voter,omitempty"`
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

// askSetup sends m to the node at addr, whatever its life and incarnation are, and
// returns who answered and what.
func (n *node) askSetup(ctx context.Context, addr string, m setupMessage) (peer transport.Hello, answer setupMessage, err error) {
	body, err := json.Marshal(m)
	if err != nil {
		return transport.Hello{}, answer, err
	}
	peer, body, err = n.net.Ask(ctx, addr, body)
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
// name. It takes as long as a dial may take.
func (n *node) meet(ctx context.Context) map[string]met {
	m := n.introduction()
	var mu sync.Mutex
	all := map[string]met{}
	var asked sync.WaitGroup
	for _, p := range n.config.Peers {
		if p.ID == n.config.ID {
			continue
		}
		asked.Go(func() {
			var a met
			a.peer, a.said, a.err = n.askSetup(ctx, p.Addr, m)
			mu.Lock()
			defer mu.Unlock()
			all[p.ID] = a
		})
	}
	asked.Wait()
	return all
}

// introduction is what this node says of itself.
func (n *node) introduction() setupMessage {
	s := n.seat.look()
	m := setupMessage{Standing: s.standing, Founders: s.identity.Founders, Former: s.identity.Former}
	if part := n.member(); part != nil {
		m.Last = part.raft.LastIndex()
		if _, id := part.raft.LeaderWithID(); id != "" {
			m.Leader = transport.NodeOf(id)
		}
	}
	return m
}

// answerSetup answers another node's introduction. A leader notes a node that
// waits to become a voter.
func (n *node) answerSetup(peer transport.Hello, m setupMessage) setupMessage {
	if n.config.peerAddr(peer.ID) != "" {
		n.seat.heard(peer, m)
	}
	answer := n.introduction()
	answer.Seen = n.net.Seen(peer.Life)
	if part := n.member(); part != nil && m.Standing == standingMember && peer.Incarnation == n.net.Greeting().Incarnation {
		answer.Known = part.trans.Seen(transport.ServerID(peer.ID, peer.Life))
	}
	if n.lead.leading.Load() {
		n.joins.note(peer, m, &answer)
	}
	return answer
}
