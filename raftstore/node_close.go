package raftstore

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// handOverBound is the time for which close waits for another node to take over the
// leadership.
const handOverBound = time.Second

// close ends the node. It is idempotent and bounded.
func (n *node) close() error {
	n.closing.Do(func() {
		n.end()
		n.handOver()
		n.hung.Store(!endsWithin(&n.running, shutdownBound))
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

// handOver transfers the leadership, if this node has it, to a voter that answers. The
// others then need not detect first that this node has gone. If it fails, they elect
// as after a crash.
func (n *node) handOver() {
	m := n.member()
	// Raft may never answer while its disk hangs.
	if m == nil || m.leading() == 0 || !n.health.isResponsive() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), handOverBound)
	defer cancel()
	successor, ok := m.firstToAnswer(ctx)
	if !ok {
		return
	}
	moved := m.raft.LeadershipTransferToServer(successor.id, raft.ServerAddress(successor.addr))
	done := make(chan error, 1)
	go func() { done <- moved.Error() }() // it ends with Raft at the latest
	select {
	case err := <-done:
		n.log.Info("node stops: leadership was transferred", "to", successor.id, "error", err)
	case <-ctx.Done():
		n.log.Warn("node stops: leadership was not taken over in time", "by", successor.id, "after", handOverBound)
	}
}

// firstToAnswer returns the voter that answers first. Raft itself would choose one by
// its log, even if it is frozen.
func (m *member) firstToAnswer(ctx context.Context) (voter, bool) {
	ctx, cancel := context.WithTimeout(ctx, m.node.questionTime())
	defer cancel()
	first, ok := <-m.askOthers(ctx, opQuestion)
	return first.voter, ok
}
