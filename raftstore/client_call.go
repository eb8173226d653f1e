package raftstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// ask sends r to one node after another, hedged, until one answers or ctx ends. All
// operations may be sent twice. Reads and renewals are idempotent, and each command
// has a number (P13, P15).
func (c *Client) ask(ctx context.Context, r *request) outcome {
	vote := c.askVoter(ctx, r)
	defer vote.end()
	body := r.encode()
	var unclear atomic.Int32 // copies that were sent and neither answered nor refused
	a, err := endpoint.Do(ctx, c.pool, classOf(r), func(ctx context.Context, addr string) (reply, error) {
		unclear.Add(1)
		rep, err := c.tryWith(ctx, addr, r, body, vote)
		if err == nil || errors.Is(err, transport.ErrNotSent) {
			unclear.Add(-1)
		}
		return rep, err
	})
	if fault := (*endpoint.Fault)(nil); errors.As(err, &fault) {
		err = fault.Err // the endpoint is the Answer's, and is named once
	}
	o := outcome{reply: a.Value, err: err, endpoint: a.Endpoint, sent: a.Sent, unclear: unclear.Load() > 0}
	if err == nil {
		c.noteRevision(&o.reply)
		if o.reply.ifTerm != 0 { // P2: the voter was asked before this copy was sent
			o.sent = vote.sent
		}
	}
	return o
}

// limitPause is for how long calls prefer other nodes to one at a limit.
const limitPause = 100 * time.Millisecond

func classOf(r *request) endpoint.Class {
	switch {
	case r.op == opPropose:
		return endpoint.Write
	case r.op == opRenew:
		return endpoint.Renew
	case r.op == opRead && !r.single:
		return endpoint.List
	}
	return endpoint.Read
}

// try sends one copy of a request to the node at addr. If the failure wraps
// ErrNotSent, this copy had no effect and never will.
func (c *Client) try(ctx context.Context, addr string, op byte, body []byte) (reply, error) {
	answer, err := c.net.Call(ctx, addr, op, body)
	if err != nil {
		return reply{}, clientFailure(addr, err)
	}
	c.pool.Identify(addr, c.conns.NodeAt(addr))
	rep, err := decodeReply(answer)
	if err != nil {
		return reply{}, &backend.Failure{Endpoint: addr, Err: err, Blame: true}
	}
	c.learn(rep.leader)
	switch {
	case rep.kind.isFinal():
		return rep, nil
	case rep.kind == replyNotDone, rep.kind == replyNotLeader:
		// The node is alive. It is not at fault for knowing no leader while the
		// others know none either.
		return reply{}, &backend.Failure{Endpoint: addr, Err: notDone{rep.text}, Refused: true, Doubt: true}
	default:
		return reply{}, &backend.Failure{Endpoint: addr, Err: errors.New(rep.text), Doubt: true}
	}
}

// notDone is a node's assurance that a request had no effect and never will.
type notDone struct{ text string }

func (e notDone) Error() string { return e.text }
func (notDone) Unwrap() error   { return transport.ErrNotSent }

// clientFailure returns the failure of a connection.
func clientFailure(addr string, err error) error {
	refused := errors.Is(err, transport.ErrNotSent)
	if refused && backend.IsLocal(err) {
		return backend.OwnCause(addr, err)
	}
	if refused && errors.Is(err, transport.ErrLimit) {
		return &backend.Failure{Endpoint: addr, Err: err, Refused: true, Busy: limitPause}
	}
	f := &backend.Failure{Endpoint: addr, Err: err, Refused: refused, Unreachable: refused, Blame: true}
	if errors.Is(err, transport.ErrPeerRefused) {
		f.Kind = dcs.ErrUnauthorized
	}
	return f
}

// leaderAt is an address at which the leader answers.
type leaderAt struct{ node, addr string }

// learn records which node leads.
func (c *Client) learn(leader string) {
	if leader == "" {
		return
	}
	known := c.leader.Load()
	if known == nil || known.node != leader || !c.conns.IsConnected(known.addr) {
		at := c.conns.Reaches(leader)
		if len(at) == 0 {
			return
		}
		known = &leaderAt{leader, at[0]}
		c.leader.Store(known)
	}
	c.pool.Leads(known.addr)
}

// noteRevision records the newest revision of a changed key, so that the client leaves a
// stream that stays behind it. Entries of the log that change no key do not count,
// because a stream brings their revisions only with its next beat.
func (c *Client) noteRevision(r *reply) {
	var newest dcs.Revision
	for i := range r.entries {
		newest = max(newest, r.entries[i].Modified)
	}
	if newest > 0 {
		c.copy.Saw(newest)
	}
}

// probe asks the quorum through one node, for the Pool.
func (c *Client) probe(ctx context.Context, addr string) (leads bool, err error) {
	rep, err := c.try(ctx, addr, opPosition, (&request{op: opPosition}).encode())
	if err != nil {
		return false, err
	}
	return rep.leader != "" && rep.leader == c.conns.NodeAt(addr), nil
}

// keysSince reads the keys one by one, because each fits into a reply.
func (c *Client) keysSince(ctx context.Context, _ dcs.Revision, keys []string) ([]dcs.Entry, error) {
	var out []dcs.Entry
	for _, key := range keys {
		o := c.ask(ctx, &request{op: opRead, prefix: key, single: true})
		if o.err != nil {
			return nil, o.err
		}
		out = append(out, o.reply.entries...)
	}
	return out, nil
}

// explain adds to err that no node accepts this client, if that is so. The call itself
// may only have waited for another node, and an operator must act.
func (c *Client) explain(err error) error {
	if errors.Is(err, transport.ErrPeerRefused) {
		return err
	}
	if refusal := c.conns.Exclusion(c.pool.Endpoints()); refusal != nil {
		return fmt.Errorf("%w: %w", cmp.Or(err, errNoLeader), refusal)
	}
	return err
}
