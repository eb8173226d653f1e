package raftstore

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// pauseNet is the network between the Raft nodes of one cluster. It can pause one of them
// like a stopped process. Messages that the node has sent arrive, answers to it wait in
// its socket, and its clocks stand still.
type pauseNet struct {
	paused atomic.Pointer[string] // the address of the paused node
	phase  atomic.Int32
	resume chan struct{}
	held   sync.Map // the addresses whose heartbeat's answer waits
}

const (
	running   = iota
	pausing   // heartbeats are sent, and their answers wait
	resuming  // as before, but clocks run again
	cutForNow // the answers are read; nothing else passes
)

type pauseTransport struct {
	raft.Transport
	raft.WithPreVote
	self string
	net  *pauseNet
}

var errCut = errors.New("cut off")

// passes refuses messages that the paused node would have to send or to read.
func (p *pauseTransport) passes(to raft.ServerAddress) error {
	if at := p.net.paused.Load(); at != nil && (*at == p.self || *at == transport.PlainAddr(string(to))) {
		return errCut
	}
	return nil
}

func (p *pauseTransport) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

func (p *pauseTransport) AppendEntries(id raft.ServerID, to raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	at := p.net.paused.Load()
	if at == nil || *at != p.self || p.net.phase.Load() == cutForNow {
		if err := p.passes(to); err != nil {
			return err
		}
		return p.Transport.AppendEntries(id, to, req, resp)
	}
	if heartbeat := req.PrevLogEntry == 0 && req.LeaderCommitIndex == 0; heartbeat {
		err := p.Transport.AppendEntries(id, to, req, resp)
		if err == nil {
			p.net.held.Store(to, true)
		}
		<-p.net.resume
		return err
	}
	if p.net.phase.Load() == pausing {
		// Raft counts the time since it last heard of a follower; that time
		// stands still.
		resp.Term, resp.Success, resp.LastLog = req.Term, true, req.PrevLogEntry
		return nil
	}
	<-p.net.resume
	return errCut
}

func (p *pauseTransport) RequestVote(id raft.ServerID, to raft.ServerAddress, req *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	if err := p.passes(to); err != nil {
		return err
	}
	return p.Transport.RequestVote(id, to, req, resp)
}

func (p *pauseTransport) RequestPreVote(id raft.ServerID, to raft.ServerAddress, req *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if err := p.passes(to); err != nil {
		return err
	}
	return p.WithPreVote.RequestPreVote(id, to, req, resp)
}

// P2, the counterexample: heartbeats leave the leader and are answered, and the answers
// wait in its socket while it is paused. Another leader is elected and ends a lease. The
// old one resumes and reads a renewal of that lease, and then the old answers. Raft's
// VerifyLeader succeeds, and the renewal must fail.
func TestP2PausedLeaderConfirmsNothing(t *testing.T) {
	tc, wires, resume := newPauseCluster(t)
	ctx := testCtx(t)
	at := tc.leader()
	old := tc.node[at].node
	lease, _, err := tc.node[at].Grant(ctx, minMinTTL)
	require.NoError(t, err)

	addr := old.net.Addr()
	wires.phase.Store(pausing)
	wires.paused.Store(&addr)
	other := tc.leaderButNot(at)
	tc.eventually(func() bool { return !other.state.Tree().Live(lease.ID()) }, "the lease does not end")
	tc.eventually(func() bool {
		n := 0
		wires.held.Range(func(any, any) bool { n++; return true })
		return n == 2
	}, "no heartbeat is in flight")
	require.NotZero(t, old.leading(), "the old leader has already stepped down")
	require.Greater(t, other.leading(), old.leading())

	wires.phase.Store(resuming)
	verified := old.member().raft.VerifyLeader()
	// The main loop has received that once it has answered often enough, because
	// it chooses at random among the waiting events.
	for range 30 {
		require.ErrorIs(t, old.member().raft.BootstrapCluster(raft.Configuration{}).Error(), raft.ErrCantBootstrap)
	}
	soon, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	renewal := make(chan error, 1)
	go func() {
		_, err := old.lead.renew(soon, lease.ID(), "", 0)
		renewal <- err
	}()
	wires.phase.Store(cutForNow)
	resume()
	require.NoError(t, verified.Error(), "VerifyLeader does not show the fault that the evidence of P2 avoids")
	err = <-renewal
	require.Error(t, err, "a lease that had ended was confirmed")
	require.NotErrorIs(t, err, errGone, "the old leader cannot know that")
	wires.paused.Store(nil)
	_, err = lease.Renew(ctx)
	require.Error(t, err)
}

// P2, the same with the questions of a quorumCheck. They are answered, and the answers
// wait while another leader is elected and ends a lease. They are read after a renewal
// that arrived later. They count only for calls that arrived before the questions.
func TestP2AnswersHeldBackOverAnElection(t *testing.T) {
	tc, wires, resume := newPauseCluster(t)
	ctx := testCtx(t)
	at := tc.leader()
	old := tc.node[at].node
	lease, _, err := tc.node[at].Grant(ctx, 20*time.Second)
	require.NoError(t, err)
	var answered atomic.Int32
	release := make(chan struct{})
	readAnswers := sync.OnceFunc(func() { close(release) })
	t.Cleanup(readAnswers)
	old.lead.mu.Lock()
	e := old.lead.current.quorum
	old.lead.mu.Unlock()
	e.mu.Lock() // no voter is asked yet
	ask := e.ask
	e.ask = func(ctx context.Context, addr string) (uint64, error) {
		term, err := ask(ctx, addr)
		answered.Add(1)
		<-release
		return term, err
	}
	e.mu.Unlock()
	renew := func(ctx context.Context) <-chan error {
		done := make(chan error, 1)
		go func() {
			_, err := old.lead.renew(ctx, lease.ID(), "", 0)
			done <- err
		}()
		return done
	}
	before := renew(ctx)
	tc.eventually(func() bool { return answered.Load() == 2 }, "the questions are not answered")

	addr := old.net.Addr()
	wires.phase.Store(pausing)
	wires.paused.Store(&addr)
	other := tc.leaderButNot(at)
	for _, b := range tc.node {
		if b.node == other {
			require.NoError(t, (&leaseHandle{b: &b.frontend, id: lease.ID()}).Revoke(ctx))
		}
	}
	require.NotZero(t, old.leading(), "the old leader has already stepped down")

	soon, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	after := renew(soon)
	tc.eventually(func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		return len(e.waiting) == 2
	}, "the second renewal does not wait")
	readAnswers()
	require.NoError(t, <-before, "the question was asked while the node led")
	err = <-after
	require.Error(t, err, "a lease that had ended was confirmed")
	require.NotErrorIs(t, err, errGone, "the old leader cannot know that")
	wires.phase.Store(cutForNow)
	resume()
}

// newPauseCluster starts three nodes, of which one can be paused. resume delivers the
// messages that the pause holds back.
func newPauseCluster(t *testing.T) (tc *testCluster, wires *pauseNet, resume func()) {
	wires = &pauseNet{resume: make(chan struct{})}
	resume = sync.OnceFunc(func() { close(wires.resume) })
	tc = newTestCluster(t, 3, func(_ int, c *Config, h *hooks) {
		self := c.Peers[slices.IndexFunc(c.Peers, func(p Peer) bool { return p.ID == c.ID })].Addr
		h.transport = func(t raft.Transport) raft.Transport {
			return &pauseTransport{Transport: t, WithPreVote: t.(raft.WithPreVote), self: self, net: wires}
		}
		c.HeartbeatTimeout = time.Second
	})
	t.Cleanup(resume) // before the nodes are closed
	return tc, wires, resume
}

// leaderButNot waits for a leader with its term open other than the node at.
func (tc *testCluster) leaderButNot(at int) *node {
	tc.t.Helper()
	var found *node
	tc.eventually(func() bool {
		for i, b := range tc.node {
			if i != at && b != nil && b.node.leading() != 0 && b.node.opened(b.node.leading()) {
				found = b.node
			}
		}
		return found != nil
	}, "no other leader")
	return found
}
