package raftstore

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/hashicorp/raft"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
)

// A renewal needs the answers of a majority (P2). The leader has its own and asks
// other voters, which costs another round trip. A client asks one voter itself while
// its request is in flight. The reply of the leader then holds if both are in one
// term.
//
// The voter may have answered before the leader did. A newer leader may have been
// elected in between, but not before the voter was asked: a renewal counts from then.
// See docs/decisions/0021.

// voterRest is the time for which no voter is asked after one has not answered in
// time.
const voterRest = time.Second

// voterAt is the server that a client asks for its term.
type voterAt struct {
	leader string // the node that led when it was chosen
	addr   string
	id     raft.ServerID // empty: there is none
	until  dcs.Instant   // not zero: it did not answer, and is not asked until then
}

// vote is the question that one renewal has put to a voter. A nil *vote is none.
type vote struct {
	c      *Client
	at     *voterAt
	sent   dcs.Instant
	cancel context.CancelFunc
	term   chan uint64 // one term, 0 if there was no answer
}

// askVoter asks a voter for its term, if r is a renewal and the leader is known, and
// names the voter in r.
func (c *Client) askVoter(ctx context.Context, r *request) *vote {
	if r.op != opRenew {
		return nil
	}
	at := c.usualVoter()
	if at == nil {
		return nil
	}
	r.asked = at.id
	v := &vote{c: c, at: at, sent: dcs.Now(), term: make(chan uint64, 1)}
	ctx, v.cancel = context.WithCancel(ctx)
	go func() { // ends with ctx at the latest
		answer, err := c.net.Call(ctx, at.addr, opVote, []byte(at.id))
		said, decodeErr := decodeVoterState(answer)
		if cmp.Or(err, decodeErr) != nil {
			said.term = 0
		}
		v.term <- said.term
	}()
	return v
}

func (v *vote) end() {
	if v != nil {
		v.cancel()
	}
}

// holds reports whether the voter is in that term. It does not wait for a voter that
// is much slower than the leader, and such a voter is not asked again soon.
func (v *vote) holds(ctx context.Context, term uint64) bool {
	if v == nil {
		return false
	}
	late := time.NewTimer(v.sent.Elapsed() + time.Millisecond)
	defer late.Stop()
	select {
	case said := <-v.term:
		if said == term {
			return true
		}
	case <-late.C:
	case <-ctx.Done():
		return false
	}
	v.c.voter.Store(&voterAt{leader: v.at.leader, addr: v.at.addr, until: dcs.Now().Add(voterRest)})
	return false
}

// usualVoter returns the voter to ask, or nil if there is none. It is the best of the
// followers. The leader decides whether it has a vote.
func (c *Client) usualVoter() *voterAt {
	leader := c.leader.Load()
	if leader == nil {
		return nil
	}
	known := c.voter.Load()
	switch {
	case known == nil || known.leader != leader.node:
		known = c.chooseVoter(leader, "")
	case known.id == "" && !known.until.Before(dcs.Now()):
	case known.id == "":
		known = c.chooseVoter(leader, known.addr)
	case c.conns.ServerAt(known.addr) != known.id:
		known = c.chooseVoter(leader, "")
	}
	if known.id == "" {
		return nil
	}
	return known
}

// chooseVoter chooses the voter to ask from now on. It avoids the one at the address
// without if there is another.
func (c *Client) chooseVoter(leader *leaderAt, without string) *voterAt {
	chosen := &voterAt{leader: leader.node, until: dcs.Now().Add(voterRest)}
	for _, addr := range c.pool.Endpoints() {
		id := c.conns.ServerAt(addr)
		if id == "" || c.conns.NodeAt(addr) == leader.node || !c.conns.IsConnected(addr) {
			continue
		}
		if chosen.id == "" || chosen.addr == without {
			chosen = &voterAt{leader: leader.node, addr: addr, id: id}
		}
	}
	c.voter.Store(chosen)
	return chosen
}

// tryWith sends a copy of a request. If the reply to a renewal depends on a voter
// whose answer does not hold, tryWith renews again at the same node without the voter.
func (c *Client) tryWith(ctx context.Context, addr string, r *request, body []byte, v *vote) (reply, error) {
	rep, err := c.try(ctx, addr, r.op, body)
	if err != nil || rep.ifTerm == 0 || v.holds(ctx, rep.ifTerm) {
		return rep, err
	}
	again := *r
	again.asked = ""
	rep, err = c.try(ctx, addr, r.op, again.encode())
	if err == nil && rep.ifTerm != 0 {
		err = &backend.Failure{Endpoint: addr, Err: errors.New("the reply depends on a voter that the request does not name"), Doubt: true}
	}
	return rep, err
}
