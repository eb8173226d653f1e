package raftstore

import (
	"sync"

	"github.com/hashicorp/raft"
)

// raftTransport is Raft's network transport, with an end of its heartbeats that
// can be waited for. A NetworkTransport handles heartbeats in goroutines that
// neither its Close nor Raft's Shutdown waits for. One that is still under way
// when the log is closed makes Raft panic ("failed to save current term").
type raftTransport struct {
	*raft.NetworkTransport

	mu      sync.Mutex
	stopped bool
	running sync.WaitGroup
}

// SetHeartbeatHandler implements raft.Transport.
func (t *raftTransport) SetHeartbeatHandler(handle func(raft.RPC)) {
	t.NetworkTransport.SetHeartbeatHandler(func(rpc raft.RPC) {
		if !t.begin() {
			rpc.Respond(nil, raft.ErrRaftShutdown)
			return
		}
		defer t.running.Done()
		handle(rpc)
	})
}

func (t *raftTransport) begin() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped {
		return false
	}
	t.running.Add(1)
	return true
}

// drain refuses further heartbeats and waits for those under way.
func (t *raftTransport) drain() {
	t.mu.Lock()
	t.stopped = true
	t.mu.Unlock()
	t.running.Wait()
}
