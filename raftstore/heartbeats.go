package raftstore

import (
	"sync"

	"github.com/hashicorp/raft"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
)

// raftTransport is Raft's network transport, with bounded messages, requests that
// are checked, and an end of its heartbeats that can be waited for. A
// NetworkTransport handles heartbeats in goroutines that neither its Close nor
// Raft's Shutdown waits for. One that is still under way when the log is closed
// makes Raft panic ("failed to save current term").
type raftTransport struct {
	*raft.NetworkTransport
	checked checkedRequests
	// ready is called when NewRaft has read the stores, before it starts.
	ready func()

	mu      sync.Mutex
	stopped bool
	running sync.WaitGroup
	acks    map[raft.ServerID]ack
}

// ack is the newest entry that a server has acknowledged in a term.
type ack struct {
	term uint64
	disk.LogEnd
}

// AppendEntries implements raft.Transport. It leaves out what goes beyond the
// bound of a message, and notes what the server has.
func (t *raftTransport) AppendEntries(id raft.ServerID, to raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	cutBatch(req)
	err := t.NetworkTransport.AppendEntries(id, to, req, resp)
	if err == nil && resp.Success && req.Term == resp.Term && len(req.Entries) > 0 {
		last := req.Entries[len(req.Entries)-1]
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.acks == nil {
			t.acks = map[raft.ServerID]ack{}
		}
		if a := t.acks[id]; a.term < req.Term || a.Index < last.Index {
			t.acks[id] = ack{term: req.Term, LogEnd: disk.LogEnd{Index: last.Index, Term: last.Term}}
		}
	}
	return err
}

// acknowledged returns the newest entry that a server has acknowledged in this
// term. It is zero without one.
func (t *raftTransport) acknowledged(id raft.ServerID, term uint64) disk.LogEnd {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a := t.acks[id]; a.term == term {
		return a.LogEnd
	}
	return disk.LogEnd{}
}

// Consumer implements raft.Transport. Raft calls it once; the goroutine ends with
// Close.
func (t *raftTransport) Consumer() <-chan raft.RPC {
	t.checked.start(t.NetworkTransport.Consumer())
	return t.checked.out
}

// Close implements raft.WithClose.
func (t *raftTransport) Close() error {
	t.checked.stop()
	return t.NetworkTransport.Close()
}

// SetHeartbeatHandler implements raft.Transport. NewRaft calls it last, before it
// starts its goroutines.
func (t *raftTransport) SetHeartbeatHandler(handle func(raft.RPC)) {
	if t.ready != nil {
		t.ready()
	}
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
