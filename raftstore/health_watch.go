package raftstore

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// The lead of a stalled node. Raft's heartbeats do not depend on the disk, so
// the followers of a leader whose disk hangs are content, and nobody commits
// anything. A leader that has been stalled for stalledAfter therefore closes
// Raft's connections, and refuses new ones, if a majority of the voters without
// it says that it is well: the others then elect one of theirs. If no such
// majority is well, as when all share a storage that hangs, the leader stays
// and goes on renewing leases.
//
// Calls stay open: a question of P2 needs no disk, and the answer, this node's
// present term, stays true.

// leadWatch is what the watch of a leader's health needs of the node around it.
type leadWatch struct {
	health *health
	// leading returns the term in which Raft leads here, or 0, whether this
	// node stepped out or not.
	leading func() uint64
	// othersWell reports whether a majority of the voters without this node is
	// well. It is bounded by ctx.
	othersWell func(ctx context.Context) bool
	// bar closes Raft's connections and refuses new ones while reason is not
	// nil; turn makes the leadership agree with leading and health.away.
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
		bar:        func(reason error) { n.net.gate(kindRaft, reason) },
		turn:       n.turn,
	}
	w.watch(n.life)
}

// turn makes the leadership agree with Raft, and with whether this node stepped
// out, and lets calls look for the leader anew.
func (n *node) turn() {
	n.lead.changed(n.leading())
	n.route.turn(n.leaderAddr())
}

// othersWell reports whether the voters without this node that say that they are
// well are a majority.
func (n *node) othersWell(ctx context.Context) bool {
	m := n.member()
	if m == nil {
		return false
	}
	voters := m.currentVoters()
	answers := make(chan bool, len(voters))
	for _, v := range voters {
		go func() {
			if v.id == m.id {
				answers <- false
				return
			}
			said, err := n.askVoice(ctx, v.addr)
			answers <- err == nil && said.well
		}()
	}
	well := 0
	for range voters {
		if <-answers {
			well++
		}
	}
	return well > len(voters)/2
}

// reportHealth logs a change of this node's health and reports it to the
// Observer.
func (n *node) reportHealth(from, to Health) {
	args := []any{"state", string(to.State), "was", string(from.State), "for", from.Since}
	if to.State == Well {
		n.log.Info("this node takes part again", args...)
	} else {
		n.log.Error("this node does not take part as it should", append(args, "error", to.Err)...)
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

// askTime bounds the question to the others for their health.
const askTime = 300 * time.Millisecond

// watch looks at the node's health until life ends.
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
		ill, out := s.health.check(), s.health.away()
		switch {
		case !out && ill != nil && s.leading() != 0 && s.ask(life):
			left = dcs.Now()
			s.health.stepOut(ill)
			s.bar(ill)
			s.turn()
		case out && (ill == nil || left.Elapsed() >= outFor):
			// Either the disk is back, or nobody took the lead: the others
			// cannot reach each other, and what is held is renewed here.
			s.health.stepIn()
			s.bar(nil)
			s.turn()
		}
	}
}

func (s *leadWatch) ask(life context.Context) bool {
	ctx, cancel := context.WithTimeout(life, askTime)
	defer cancel()
	return s.othersWell(ctx)
}
