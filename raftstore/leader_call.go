package raftstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// errNoLeader reports that no leader is known.
var errNoLeader = errors.New("no Raft leader is known")

// errMoved ends an attempt whose callee no longer leads.
var errMoved = errors.New("another node became the Raft leader")

// leaderWatch notifies the calls that wait for a leader, or for an answer of one, when
// there is another leader.
type leaderWatch struct {
	mu       sync.Mutex
	changed  chan struct{} // closed at the next change
	attempts map[*attempt]struct{}
	ended    bool // the node is closing
}

// attempt is one call in progress.
type attempt struct {
	to     string
	cancel context.CancelCauseFunc
}

func newLeaderWatch() *leaderWatch {
	return &leaderWatch{changed: make(chan struct{}), attempts: map[*attempt]struct{}{}}
}

// next returns a channel that is closed at the next change of the leader.
func (r *leaderWatch) next() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// begin registers an attempt, which a change of the leader ends.
func (r *leaderWatch) begin(a *attempt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.attempts[a] = struct{}{}
	if r.ended {
		a.cancel(dcs.ErrClosed)
	}
}

func (r *leaderWatch) end(a *attempt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.attempts, a)
}

// turn notifies all waiting calls of a change. If leader is not empty, it also ends
// the attempts at other nodes.
func (r *leaderWatch) turn(leader string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.changed)
	r.changed = make(chan struct{})
	for a := range r.attempts {
		if leader != "" && a.to != leader {
			a.cancel(errMoved)
		}
	}
}

// shut ends all attempts. Later ones end at once.
func (r *leaderWatch) shut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	for a := range r.attempts {
		a.cancel(dcs.ErrClosed)
	}
}

// follow turns Raft's observations of the leader into turns of the leaderWatch. It
// does not matter that an observation is dropped while another one is waiting, because
// follow reads the leader from Raft each time.
func (m *member) follow() {
	n := m.node
	seen := make(chan raft.Observation, 1)
	o := raft.NewObserver(seen, false, func(o *raft.Observation) bool {
		switch data := o.Data.(type) {
		case raft.LeaderObservation:
			return true
		case raft.RaftState:
			if data == raft.Candidate {
				n.elections.Add(1)
			}
		}
		return false
	})
	m.raft.RegisterObserver(o)
	defer m.raft.DeregisterObserver(o)
	known := n.leaderAddr()
	n.leaderWatch.turn(known)
	for {
		select {
		case <-seen:
			now := n.leaderAddr()
			n.leaderWatch.turn(now)
			if now != "" && now != known {
				n.leaderChanges.Add(1)
				n.reportLeader(known, now)
				known = now
			}
		case <-m.life.Done():
			return
		}
	}
}

// reportLeader logs a change of the leader to which this node's calls go, and reports
// it to the Observer.
func (n *node) reportLeader(from, to string) {
	from, to = transport.PlainAddr(from), transport.PlainAddr(to)
	n.log.Info("calls go to another Raft leader", "from", from, "to", to)
	if n.config.Observer.Endpoint != nil {
		n.config.Observer.Endpoint(dcs.EndpointEvent{
			Backend: backendName, From: from, To: to, Reason: "the Raft leadership changed",
		})
	}
}

// leaderAddr returns the address of the leader that Raft knows, with its life, or "".
func (n *node) leaderAddr() string {
	m := n.member()
	if m == nil {
		return ""
	}
	_, id := m.raft.LeaderWithID()
	switch id {
	case "":
		return ""
	case m.id:
		if n.health.hasSteppedOut() {
			return "" // even if Raft still names this node
		}
		return n.net.Addr()
	}
	addr, err := n.net.ServerAddr(id)
	if err != nil {
		return "" // its address is not known: no connection would be made
	}
	return string(addr)
}

// outcome is the outcome of a request that was tried until its budget ended.
type outcome struct {
	reply    reply
	err      error       // why there is no reply
	endpoint string      // the node that was asked last
	sent     dcs.Instant // when the copy that was answered was sent
	unclear  bool        // a copy of the request, not the answered one, may have been taken
}

// ask sends r to the leader, as often as needed, until there is an answer or ctx ends.
// prepare is called before each copy is sent.
func (n *node) ask(ctx context.Context, r *request, prepare func()) outcome {
	var o outcome
	hint, hinted := "", false
	for {
		changed := n.leaderWatch.next()
		to := hint
		if to == "" {
			to = n.target(r.op)
		}
		hint = ""
		if to != "" {
			o.endpoint = transport.PlainAddr(to)
			prepare()
			rep, err := n.try(ctx, to, r)
			switch {
			case err != nil:
				if ctx.Err() == nil || o.err == nil { // else the previous reason is more helpful
					o.err = err
				}
				o.unclear = o.unclear || !errors.Is(err, transport.ErrNotSent)
			case rep.kind.isFinal():
				o.reply, o.err = rep, nil
				return o
			case rep.kind == replyNotLeader:
				o.err = fmt.Errorf("%s: %w", transport.PlainAddr(to), errNotLeader)
				if !hinted && rep.leader != "" && rep.leader != to {
					hint, hinted = rep.leader, true
					continue
				}
			default:
				o.err = errors.New(rep.text)
				o.unclear = o.unclear || rep.kind == replyUnclear
			}
		} else if o.err == nil {
			o.err = n.whyNoLeader()
		}
		hinted = false
		if !n.waitRetry(ctx, changed) {
			return o
		}
	}
}

// target returns the address to ask, which is that of this node if it leads. A node
// that stepped out or failed hears of no leader and asks the other voters in turn.
// Requests about the members do the same if no leader is known, because the others may
// not reach a node that has moved until such a request is carried out.
func (n *node) target(op byte) string {
	if n.lead.leading.Load() {
		return n.net.Addr()
	}
	m := n.member()
	leader := n.leaderAddr()
	if m == nil || !n.health.hearsNoLeader() && (leader != "" || op != opMembership) {
		return leader
	}
	voters := slices.DeleteFunc(slices.Clone(m.currentVoters()), func(v voter) bool { return v.id == m.id })
	if len(voters) == 0 {
		return ""
	}
	return voters[int(n.asked.Add(1))%len(voters)].addr
}

// waitRetry waits until the next attempt is due. It reports false if ctx or the node
// has ended.
func (n *node) waitRetry(ctx context.Context, changed <-chan struct{}) bool {
	if ctx.Err() != nil || n.life.Err() != nil {
		return false
	}
	t := time.NewTimer(n.config.HeartbeatTimeout / 8)
	defer t.Stop()
	select {
	case <-changed:
		return true
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	case <-n.life.Done():
		return false
	}
}

// try sends one copy of r. A copy for this node itself needs no call.
func (n *node) try(ctx context.Context, to string, r *request) (reply, error) {
	// P2: the caller's own answer is read after the call was made.
	if m := n.member(); m != nil {
		r.voter, r.term = m.id, m.raft.CurrentTerm()
	}
	if n.calls.IsOwn(to) {
		return n.serve(ctx, r), nil
	}
	attemptCtx, cancel := context.WithTimeout(ctx, n.attemptTime(ctx, r.op))
	defer cancel()
	attemptCtx, drop := context.WithCancelCause(attemptCtx)
	defer drop(nil)
	a := &attempt{to: to, cancel: drop}
	n.leaderWatch.begin(a)
	defer n.leaderWatch.end(a)
	body, err := n.calls.Call(attemptCtx, to, r.op, r.encode())
	if err != nil {
		return reply{}, err
	}
	return decodeReply(body)
}

// attemptTime bounds one copy of a request, because a frozen leader must not take the
// whole budget. A command has more time, because each copy of it is another entry in
// a log, and the disk of that log may be the cause of the delay.
func (n *node) attemptTime(ctx context.Context, op byte) time.Duration {
	least := 2 * n.config.ElectionTimeout
	deadline, ok := ctx.Deadline()
	if !ok {
		return least
	}
	left := time.Until(deadline)
	switch op {
	case opPropose:
		return min(left, max(left/3, 2*least))
	case opMembership:
		return min(left, changeSlice+least)
	}
	return min(left, least)
}
