package raftstore

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// votingNetwork records the calls of a client, may answer in place of nodes, and passes
// renewals only to the leader, so that no second copy is answered.
type votingNetwork struct {
	clientNetwork
	leader  string
	instead func(op byte, call func() ([]byte, error)) ([]byte, error) // nil: every call is made

	mu    sync.Mutex
	calls []votingCall
}

type votingCall struct {
	op   byte
	body []byte
}

func (n *votingNetwork) Call(ctx context.Context, addr string, op byte, body []byte) ([]byte, error) {
	if op == opRenew && addr != n.leader {
		return nil, transport.ErrNotSent
	}
	n.mu.Lock()
	n.calls = append(n.calls, votingCall{op, body})
	n.mu.Unlock()
	call := func() ([]byte, error) { return n.clientNetwork.Call(ctx, addr, op, body) }
	if n.instead != nil {
		return n.instead(op, call)
	}
	return call()
}

// made returns the bodies of the calls with that operation since the last time, and
// clears the record.
func (n *votingNetwork) made(op byte) (bodies [][]byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.calls {
		if c.op == op {
			bodies = append(bodies, c.body)
		}
	}
	n.calls = nil
	return bodies
}

// newVotingClient returns a client that has a lease and knows the leader and a voter.
func newVotingClient(tc *testCluster) (*votingNetwork, *Client, dcs.Lease) {
	tc.t.Helper()
	net := &votingNetwork{leader: tc.node[tc.leader()].node.net.Addr()}
	h := defaultHooks()
	h.network = func(n clientNetwork) clientNetwork { net.clientNetwork = n; return net }
	c, err := newClient(tc.clientConfig(), h)
	require.NoError(tc.t, err)
	tc.t.Cleanup(func() { require.NoError(tc.t, c.Close()) })
	lease, _, err := c.Grant(testCtx(tc.t), 10*time.Second)
	require.NoError(tc.t, err)
	tc.eventually(func() bool {
		_, err := lease.Renew(testCtx(tc.t))
		return err == nil && c.usualVoter() != nil
	}, "no voter is known")
	net.made(0)
	return net, c, lease
}

// P2: a voter may have answered before the renewal reached the leader, and another node
// may lead from then on. So the renewal counts from the question. The leader asks no
// voter.
func TestP2RenewalCountsFromTheVote(t *testing.T) {
	tc := newTestCluster(t, 3, steady)
	net, _, lease := newVotingClient(tc)
	var answered dcs.Instant
	voted := make(chan struct{})
	var copies atomic.Int32
	net.instead = func(op byte, call func() ([]byte, error)) ([]byte, error) {
		switch op {
		case opRenew:
			<-voted
			if copies.Add(1) == 1 { // the next copy is sent when the voter has answered
				<-time.After(300 * time.Millisecond) // the client waits for as long again until it has the answer
				return nil, transport.ErrNotSent
			}
		case opVote:
			answer, err := call()
			answered = dcs.Now()
			close(voted)
			return answer, err
		}
		return call()
	}
	renewal, err := lease.Renew(testCtx(t))
	require.NoError(t, err)
	require.True(t, renewal.From.Before(answered), "the renewal counts from after the voter's answer")
	for _, asked := range askedIn(t, net.made(opRenew)) {
		require.NotEmpty(t, asked, "the leader was asked again without the voter")
	}
}

// askedIn returns the voters that renewals name.
func askedIn(t *testing.T, renewals [][]byte) (voters []raft.ServerID) {
	t.Helper()
	for _, body := range renewals {
		r, err := decodeRequest(opRenew, body)
		require.NoError(t, err)
		voters = append(voters, r.asked)
	}
	return voters
}

// P2: a voter in another term does not confirm. The renewal is made again, and the
// leader asks the voters.
func TestP2VoteOfAnotherTerm(t *testing.T) {
	parallel(t)
	for name, answer := range map[string][]byte{
		"newer": voterState{term: 1000}.encode(), "older": voterState{term: 1}.encode(), "no answer": nil,
	} {
		t.Run(name, func(t *testing.T) {
			tc := newTestCluster(t, 3, steady)
			net, c, lease := newVotingClient(tc)
			net.instead = func(op byte, call func() ([]byte, error)) ([]byte, error) {
				if op == opVote {
					return answer, nil
				}
				return call()
			}
			_, err := lease.Renew(testCtx(t))
			require.NoError(t, err)
			require.Empty(t, c.voter.Load().id, "a voter that did not confirm is asked again at once")
			asked := askedIn(t, net.made(opRenew))
			require.NotEmpty(t, asked[0])
			require.Contains(t, asked, raft.ServerID("")) // a busy machine sends further copies
		})
	}
}

// P2: the answer that a lease has ended also holds only if the voter confirms it.
func TestP2GoneDependsOnTheVote(t *testing.T) {
	parallel(t)
	tc := newTestCluster(t, 3, steady)
	leader := tc.node[tc.leader()].node
	net, _, lease := newVotingClient(tc)
	require.NoError(t, lease.Revoke(testCtx(t)))
	_, err := lease.Renew(testCtx(t))
	require.ErrorIs(t, err, dcs.ErrLost)
	bodies := net.made(opRenew)
	require.NotEmpty(t, bodies)
	rep, err := decodeReply(leader.answerClient(testCtx(t), opRenew, bodies[0]))
	require.NoError(t, err)
	require.Equal(t, replyGone, rep.kind)
	require.Equal(t, leader.member().raft.CurrentTerm(), rep.ifTerm)
}

// P2: the answer of another server at the voter's address does not count.
func TestP2VoteOfAnotherServer(t *testing.T) {
	parallel(t)
	tc := newTestCluster(t, 3, steady)
	tc.leader()
	n := tc.node[tc.follower()].node
	said, err := decodeVoterState(n.answerClient(testCtx(t), opVote, []byte(n.member().id)))
	require.NoError(t, err)
	require.Equal(t, n.member().raft.CurrentTerm(), said.term)
	require.Empty(t, n.answerClient(testCtx(t), opVote, []byte(tc.node[tc.leader()].node.member().id)))
}

// A node that forwards a renewal sends its own term with it, not the client's voter.
func TestRenewalIsPassedOnWithoutTheClientsVoter(t *testing.T) {
	tc := newTestCluster(t, 3, steady)
	tc.leader()
	ctx := testCtx(t)
	follower := tc.node[tc.follower()]
	lease, _, err := follower.Grant(ctx, 10*time.Second)
	require.NoError(t, err)
	r := &request{op: opRenew, lease: lease.ID(), asked: "nobody"}
	rep, err := decodeReply(follower.node.answerClient(ctx, opRenew, r.encode()))
	require.NoError(t, err)
	require.Equal(t, replyDone, rep.kind)
	require.Zero(t, rep.ifTerm)
}
