package raftstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backoff"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/logging"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

const (
	// answerMargin is the part of a client's budget, as a divisor, that is reserved for
	// the way back if there is no leader to which a request can be forwarded.
	answerMargin = 10
	// leastBeat and mostBeat bound the time between two beats of a stream.
	leastBeat = 100 * time.Millisecond
	mostBeat  = mostProbe
	// spreadPush times the number of clients is the least time between two messages to
	// one client, so that many clients and many commits cost a bounded part of a
	// processor. mostSpread bounds the product.
	spreadPush = 20 * time.Microsecond
	mostSpread = 20 * time.Millisecond
)

// answerClient answers a call of a client. A node that does not lead forwards the call,
// once, so that a client can use any node that it reaches.
func (n *node) answerClient(ctx context.Context, op byte, body []byte) []byte {
	refuse := func(err error) []byte {
		return (&reply{kind: replyNotDone, text: logging.Clip(err.Error())}).encode()
	}
	switch op {
	case opVote:
		return n.answerVote(raft.ServerID(body))
	case opPropose, opRead, opRenew, opPosition, opMembership:
	default:
		return refuse(fmt.Errorf("unknown operation %d", op))
	}
	r, err := decodeRequest(op, body)
	if err == nil && op == opMembership && r.change.verb != verbList {
		err = errors.New("a client cannot change the members: call the method on a node")
	}
	if err != nil {
		return refuse(err)
	}
	// P2: a client has no vote. try fills in the term of this node, which it reads after
	// the request has arrived.
	r.voter, r.term = "", 0
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)*(answerMargin-1)/answerMargin)
		defer cancel()
	}
	o, done := n.renewIf(ctx, r)
	if !done {
		o = n.ask(ctx, r, nothing)
	}
	rep := o.reply
	switch {
	case o.err != nil && o.unclear:
		rep = reply{kind: replyUnclear, text: o.err.Error()}
	case o.err != nil:
		rep = reply{kind: replyNotDone, text: o.err.Error()}
	case rep.result.Status == state.StatusUnknownClient && o.unclear:
		// An earlier copy may have been applied while the client was known.
		rep = reply{kind: replyUnclear, text: errForgotten.Error()}
	case entriesSize(rep.entries) > transport.MaxEntryBytes:
		rep.entries, rep.tooLarge = nil, true
	}
	rep.leader, rep.text = n.leaderName(), logging.Clip(rep.text)
	return rep.encode()
}

// answerVote returns this node's term, if it is the server that a client means. By now
// another server, without a vote, may answer at that server's address.
func (n *node) answerVote(id raft.ServerID) []byte {
	m := n.member()
	if m == nil || m.id != id {
		return nil // no term: the answer counts for nothing
	}
	// P2: read after the question has arrived.
	return voterState{term: m.raft.CurrentTerm(), level: state.Level}.encode()
}

// renewIf renews a lease, if this node leads, on condition of the answer of a voter that
// the client asks at the same time. The reply has the term in which that voter must be
// for the reply to hold (P2). If one voter is not enough, the others are asked as well.
func (n *node) renewIf(ctx context.Context, r *request) (o outcome, done bool) {
	m := n.member()
	if r.op != opRenew || r.asked == "" || m == nil || !n.lead.leading.Load() {
		return o, false
	}
	r.voter, r.term = r.asked, m.raft.CurrentTerm()
	o.reply = n.serve(ctx, r)
	o.reply.ifTerm = r.term
	return o, o.reply.kind.isFinal()
}

// leaderName returns the name of the leader, as this node knows it, or "".
func (n *node) leaderName() string {
	if n.lead.leading.Load() {
		return n.config.ID
	}
	if m := n.member(); m != nil && !n.health.hasSteppedOut() {
		_, id := m.raft.LeaderWithID()
		return transport.NodeOf(id)
	}
	return ""
}

// streamToClient sends the changes, or the tree, to a client.
func (b *Backend) streamToClient(ctx context.Context, body []byte, push func([]byte) error) error {
	r, err := decodeFeedRequest(body)
	if err != nil {
		return err
	}
	if r.kind == feedTree {
		if err := b.node.await(ctx, r.revision); err != nil {
			return err
		}
		_, err := b.pushTree(r.prefix, push)
		return err
	}
	every := min(max(r.every, leastBeat), mostBeat)
	b.streams.enterEvery(every)
	defer b.streams.leave()
	s := &clientStream{b: b, push: push, upTo: uint64(r.revision), every: every}
	for {
		news, probe := b.node.feed.next(), b.streams.view()
		if err := s.send(ctx); err != nil {
			return err
		}
		if err := s.beat(probe); err != nil {
			return err
		}
		select {
		case <-news:
		case <-probe.changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// clientStream is the stream of changes to one client.
type clientStream struct {
	b    *Backend
	push func([]byte) error
	upTo uint64 // the client has every change up to this entry

	every  time.Duration
	beaten dcs.Instant // the probe that the last beat reported
}

// send sends the new changes. A client that reads slowly gets fewer, longer messages.
func (s *clientStream) send(ctx context.Context) error {
	for {
		message, upTo, kept := s.b.node.feed.since(s.upTo)
		var err error
		switch {
		case !kept:
			upTo, err = s.b.pushTree("", s.push)
		case message == nil:
			s.upTo = upTo
			return nil
		default:
			err = s.push(message)
		}
		if err != nil {
			return err
		}
		s.upTo = max(s.upTo, upTo)
		if spread := min(time.Duration(s.b.streams.waiting())*spreadPush, mostSpread); spread >= time.Millisecond {
			backoff.Sleep(ctx, spread)
		}
	}
}

// beat notifies the client of a probe that has succeeded, so that this node is in
// contact with the quorum and has caught up.
func (s *clientStream) beat(v view) error {
	current := v.behind == 0 && v.caught != nil && v.caught == s.b.node.member() && v.alive.Elapsed() < max(2*s.every, leastProbeTime)
	if !current || !s.beaten.Before(v.alive) {
		return nil
	}
	s.beaten = v.alive
	return s.push(encodeBeat(dcs.Revision(s.upTo)))
}

// pushTree sends the tree at or below prefix in parts, and returns its revision.
func (b *Backend) pushTree(prefix string, push func([]byte) error) (upTo uint64, err error) {
	s := b.node.state.Tree().Snapshot(prefix)
	for rest := s.Entries; ; {
		n, size := 0, 0
		for ; n < len(rest) && size < pushBytes; n++ {
			size += entriesSize(rest[n : n+1])
		}
		last := n == len(rest)
		if err := push(encodeTree(s.Revision, rest[:n], last)); err != nil || last {
			return uint64(s.Revision), err
		}
		rest = rest[n:]
	}
}
