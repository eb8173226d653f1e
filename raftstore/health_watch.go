package raftstore

import (
	"context"
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

// standing is what watchHealth needs of the node around it.
type standing struct {
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

// askTime bounds the question to the others for their health.
const askTime = 300 * time.Millisecond

// watch looks at the node's health until life ends.
func (s *standing) watch(life context.Context) {
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

func (s *standing) ask(life context.Context) bool {
	ctx, cancel := context.WithTimeout(life, askTime)
	defer cancel()
	return s.othersWell(ctx)
}
