package raftstore

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// A stalled leader steps out. Raft's heartbeats do not depend on the disk. So the
// followers of a leader whose disk hangs hold no election, and nothing is committed.
// A leader that has been stalled for stalledAfter therefore closes Raft's
// connections, and refuses new ones, if voters that are a majority without it report
// that they are well. The others then elect a leader. If there is no such majority,
// as when all share a storage that hangs, the leader stays and continues to renew
// leases.
//
// Calls stay open, because a question of P2 needs no disk, and the answer, this
// node's present term, stays true.

// leadWatch watches the health of a leader. Its functions are parts of the node.
type leadWatch struct {
	health *health
	// leading returns the term in which Raft leads here, or 0, whether this
	// node stepped out or not.
	leading func() uint64
	// othersWell reports whether the other voters that are well are a majority. It is
	// bounded by ctx.
	othersWell func(ctx context.Context) bool
	// superseded reports whether another voter is in a newer term. It is bounded by
	// ctx.
	superseded func(ctx context.Context) bool
	// retry makes the store repeat failed writes at once.
	retry func()
	// bar closes Raft's connections and refuses new ones while reason is not nil.
	// turn makes the leadership agree with leading and health.hasSteppedOut.
	bar  func(reason error)
	turn func()
}

// watchHealth watches this node's health until it ends.
func (n *node) watchHealth() {
	w := &leadWatch{
		health: n.health,
		leading: func() uint64 {
			if m := n.member(); m != nil {
				return m.leading()
			}
			return 0
		},
		othersWell: n.othersWell,
		superseded: n.superseded,
		retry: func() {
			if m := n.member(); m != nil {
				m.store.retry()
			}
		},
		bar:  func(reason error) { n.net.Gate(transport.KindRaft, reason) },
		turn: n.turn,
	}
	w.watch(n.life)
}

// turn makes the leadership agree with Raft and with health.hasSteppedOut, and makes calls
// look for the leader again.
func (n *node) turn() {
	n.lead.changed(n.leading())
	n.leaderWatch.turn(n.leaderAddr())
}

// othersWell reports whether the other voters whose disks work are a majority. Each of
// them writes to its disk first, because a follower stores nothing while the leader's
// disk hangs, and would not notice that its own hangs too.
func (n *node) othersWell(ctx context.Context) bool {
	answers, voters := n.voterStates(ctx, opDisk)
	well := 0
	for _, v := range answers {
		if v.well {
			well++
		}
	}
	return well > voters/2
}

// superseded reports whether another voter is in a newer term than this node.
func (n *node) superseded(ctx context.Context) bool {
	m := n.member()
	answers, _ := n.voterStates(ctx, opQuestion)
	return m != nil && slices.ContainsFunc(answers, func(v voterState) bool { return v.term > m.raft.CurrentTerm() })
}

// diskWorks reports whether a durable write succeeds before ctx ends.
func (m *member) diskWorks(ctx context.Context) bool {
	m.probing.Lock()
	done := m.probe
	if done == nil {
		done = make(chan struct{})
		m.probe = done
		go func() {
			defer func() { // also where the store ends the goroutine
				m.probing.Lock()
				defer m.probing.Unlock()
				m.probe = nil
				close(done)
			}()
			m.store.rewriteVote()
		}()
	}
	m.probing.Unlock()
	select {
	case <-done:
		return m.life.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// voterStates puts the question op to all other voters at once. It returns their answers
// and the number of voters, this node included.
func (n *node) voterStates(ctx context.Context, op byte) (answers []voterState, voters int) {
	m := n.member()
	if m == nil {
		return nil, 0
	}
	for said := range m.askOthers(ctx, op) {
		answers = append(answers, said.voterState)
	}
	return answers, len(m.currentVoters())
}

// answered is a voter's answer to a question.
type answered struct {
	voter
	voterState
}

// askOthers puts the question op to all other voters at once.
func (m *member) askOthers(ctx context.Context, op byte) <-chan answered {
	return m.askVoters(ctx, m.currentVoters(), op)
}

// askVoters puts the question op to these voters at once, except this node. The
// channel has the answers as they arrive, and is closed after the last one. It need
// not be read to its end.
func (m *member) askVoters(ctx context.Context, voters []voter, op byte) <-chan answered {
	answers := make(chan answered, len(voters))
	var asked sync.WaitGroup
	for _, v := range voters {
		if v.id == m.id {
			continue
		}
		asked.Go(func() {
			if said, err := m.node.askFor(ctx, v.addr, op); err == nil {
				answers <- answered{v, said}
			}
		})
	}
	go func() {
		asked.Wait()
		close(answers)
	}()
	return answers
}

// reportHealth logs a change of this node's health and reports it to the
// Observer.
func (n *node) reportHealth(from, to Health) {
	args := []any{"state", string(to.State), "was", string(from.State), "for", from.Since}
	if to.State == Well {
		n.log.Info("node takes part again", args...)
	} else {
		n.log.Error("node is unhealthy and does not fully take part", append(args, "error", to.Err)...)
	}
	if n.config.Observer.Endpoint == nil {
		return
	}
	e := dcs.EndpointEvent{Backend: backendName, Change: dcs.Restored, From: n.config.Advertise, Reason: string(to.State)}
	if to.State != Well {
		e.Change, e.Reason = dcs.Ejected, fmt.Sprintf("%s: %v", to.State, to.Err)
	}
	n.config.Observer.Endpoint(e)
}

// askTime bounds the time of asking the others for their health.
const askTime = 500 * time.Millisecond

// watch checks the node's health until life ends.
func (s *leadWatch) watch(life context.Context) {
	tick := time.NewTicker(healthTick)
	defer tick.Stop()
	var left dcs.Instant // when this node stepped out
	for {
		select {
		case <-tick.C:
		case <-life.Done():
			return
		}
		unhealthy, out := s.health.check(), s.health.hasSteppedOut()
		switch {
		case !out && unhealthy != nil && s.leading() != 0 && s.within(life, askTime, s.othersWell) && s.within(life, stalledAfter, s.stillUnhealthy):
			left = dcs.Now()
			s.health.stepOut(unhealthy)
			s.bar(unhealthy)
			s.turn()
		case out && unhealthy == nil:
			s.stepIn()
		case out && left.Elapsed() >= outFor:
			// If no other node became the leader, because the others cannot reach
			// each other, leases are renewed here again. Else this node stays out.
			left = dcs.Now()
			if !s.within(life, askTime, s.superseded) {
				s.stepIn()
			}
		}
	}
}

func (s *leadWatch) stepIn() {
	s.health.stepIn()
	s.bar(nil)
	s.turn()
}

// stillUnhealthy attempts failed writes once more, and reports whether this node is
// still unhealthy.
func (s *leadWatch) stillUnhealthy(ctx context.Context) bool {
	s.health.retried(ctx, s.retry)
	return s.health.check() != nil
}

// within asks question, bounded by limit.
func (s *leadWatch) within(life context.Context, limit time.Duration, question func(context.Context) bool) bool {
	ctx, cancel := context.WithTimeout(life, limit)
	defer cancel()
	return question(ctx)
}
