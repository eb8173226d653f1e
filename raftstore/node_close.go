package raftstore

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// handOverBound is how long close waits for another node to take the lead.
const handOverBound = time.Second

// close ends the node. It is idempotent and bounded.
func (n *node) close() error {
	n.closing.Do(func() {
		n.end()
		n.handOver()
		n.stuck.Store(!endsWithin(&n.running, shutdownBound))
		n.closed = n.undo.run()
	})
	return n.closed
}

// endsWithin waits for goroutines, which may hang in the disk, and reports
// whether they have ended.
func endsWithin(running *sync.WaitGroup, bound time.Duration) bool {
	ended := make(chan struct{})
	go func() {
		running.Wait()
		close(ended)
	}()
	timer := time.NewTimer(bound)
	defer timer.Stop()
	select {
	case <-ended:
		return true
	case <-timer.C:
		return false
	}
}

// handOver gives the lead, if this node has it, to a voter that answers: the
// others then need not notice first that this node has gone. Where it fails,
// they elect as after a crash.
func (n *node) handOver() {
	m := n.member()
	// Raft may never answer while its disk hangs.
	if m == nil || m.leading() == 0 || !n.health.quick() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), handOverBound)
	defer cancel()
	heir, ok := m.heir(ctx)
	if !ok {
		return
	}
	moved := m.raft.LeadershipTransferToServer(heir.id, raft.ServerAddress(heir.addr))
	done := make(chan error, 1)
	go func() { done <- moved.Error() }() // it ends with Raft at the latest
	select {
	case err := <-done:
		n.log.Info("this node stops and hands the lead over", "to", heir.id, "error", err)
	case <-ctx.Done():
		n.log.Warn("this node stops: the lead was not taken over in time", "by", heir.id, "after", handOverBound)
	}
}

// heir is the voter that answers first: Raft itself would pick one by its log,
// also one that is frozen.
func (m *member) heir(ctx context.Context) (voter, bool) {
	ctx, cancel := context.WithTimeout(ctx, m.node.questionTime())
	defer cancel()
	first, ok := <-m.askOthers(ctx, opQuestion)
	return first.voter, ok
}
