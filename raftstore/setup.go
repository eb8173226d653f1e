package raftstore

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
)

// maxSetup bounds a message on a setup connection.
const maxSetup = 64 << 10

// setupMessage is what a node says of itself to another one on a setup
// connection, whether it asks or answers. The hello before it has said who the
// node is, with its life and its incarnation.
type setupMessage struct {
	Standing standing `json:"standing"`
	// Founders are the lives that the cluster began with, as far as the node
	// knows them.
	Founders map[string]disk.Life `json:"founders,omitempty"`
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
	// Acked is the newest entry that the node has acknowledged to this leader
	// in its term.
	Acked disk.LogEnd `json:"acked,omitzero"`

	// Seen is the newest start of the asking node's life that this one has
	// seen.
	Seen seenStart `json:"seen,omitzero"`
}

// setupHandler answers a message of another node.
type setupHandler func(peer hello, m setupMessage) setupMessage

// ask sends m to the node at addr, whatever its life and incarnation are, and
// returns who answered and what.
func (n *network) ask(ctx context.Context, addr string, m setupMessage) (peer hello, answer setupMessage, err error) {
	ctx, cancel := context.WithTimeout(ctx, n.timeout)
	defer cancel()
	conn, err := n.dial(ctx, kindSetup, plainAddr(addr))
	if err != nil {
		return hello{}, answer, err
	}
	defer conn.Close()
	defer boundBy(ctx, conn)()
	if err = writeSetup(conn, frameRequest, m); err == nil {
		answer, err = readSetup(conn, frameReply)
	}
	if err != nil {
		return hello{}, answer, fmt.Errorf("%s: %w", plainAddr(addr), err)
	}
	return conn.hello, answer, nil
}

// answerSetup answers the one message of an accepted setup connection.
func (n *network) answerSetup(ctx context.Context, conn *trackedConn) {
	defer conn.Close()
	h := n.setup.Load()
	if h == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, n.timeout)
	defer cancel()
	defer boundBy(ctx, conn)()
	if m, err := readSetup(conn, frameRequest); err == nil {
		_ = writeSetup(conn, frameReply, (*h)(conn.hello, m)) // else the other side reports it
	}
}

// serveSetup starts answering setup connections with h.
func (n *network) serveSetup(h setupHandler) { n.setup.Store(&h) }

func writeSetup(w io.Writer, k frameKind, m setupMessage) error {
	body, err := json.Marshal(m)
	if err == nil {
		_, err = w.Write(appendFrame(nil, frame{kind: k, body: body}))
	}
	return err
}

func readSetup(r io.Reader, k frameKind) (m setupMessage, err error) {
	f, err := readFrame(bufio.NewReader(io.LimitReader(r, maxSetup)))
	if err != nil {
		return m, err
	}
	if f.kind != k {
		return m, fmt.Errorf("%w: kind %d on a setup connection", errBadFrame, f.kind)
	}
	if err := json.Unmarshal(f.body, &m); err != nil {
		return setupMessage{}, fmt.Errorf("%w: %w", errBadFrame, err)
	}
	return m, nil
}

// met is what another node answered.
type met struct {
	peer hello
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
			a.peer, a.said, a.err = n.net.ask(ctx, p.Addr, m)
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
	m := setupMessage{Standing: s.standing, Founders: s.identity.Founders}
	if part := n.member(); part != nil {
		m.Last = part.raft.LastIndex()
		if _, id := part.raft.LeaderWithID(); id != "" {
			m.Leader = nodeOf(id)
		}
	}
	return m
}

// answerSetup answers another node's introduction. A leader notes a node that
// waits to become a voter.
func (n *node) answerSetup(peer hello, m setupMessage) setupMessage {
	if n.net.owner(peer.id) != "" {
		n.seat.heard(peer, m)
	}
	answer := n.introduction()
	answer.Seen = n.net.seenStart(peer.life)
	if n.lead.leading.Load() {
		n.joins.note(peer, m, &answer)
	}
	return answer
}
