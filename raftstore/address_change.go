package raftstore

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// replicationTimeout is the time for which the change of an address waits for the next
// message of the replication. Without a fault that is sent within two commitTimeouts. If
// none is sent, Raft pauses after failures, or its disk hangs, and no answer comes.
const replicationTimeout = time.Second

// errAddressChanges makes Raft send the entries again.
var errAddressChanges = errors.New("the address of the server is being changed: the entries are sent again")

// addressChanges fails the messages of Raft's replication to a server whose address is
// being changed. After a successful one hashicorp/raft reads the name of the server without
// the lock under which it changes name and address, which is a data race. After a failed one
// it reads both under the lock. Heartbeats are not affected.
type addressChanges struct {
	raftPeers

	mu       sync.Mutex
	sending  map[raft.ServerID]int // messages of the replication in progress
	changing map[raft.ServerID]*addressChange
}

// addressChange is the change of a server's address.
type addressChange struct {
	to   raft.ServerAddress
	idle chan struct{} // closed when the replication has read nothing that the change writes since its last message
}

func newAddressChanges(t raftPeers) *addressChanges {
	return &addressChanges{raftPeers: t, sending: map[raft.ServerID]int{}, changing: map[raft.ServerID]*addressChange{}}
}

// begin fails the replication to a server until end is called, or the replication uses
// the new address. It returns when Raft reads the server no more under no lock.
func (a *addressChanges) begin(ctx context.Context, id raft.ServerID, to raft.ServerAddress) (end func()) {
	change := &addressChange{to: to, idle: make(chan struct{})}
	a.mu.Lock()
	if a.changing[id] = change; a.sending[id] > 0 {
		change.noteIdle()
	}
	a.mu.Unlock()
	timeout := time.NewTimer(replicationTimeout)
	defer timeout.Stop()
	select {
	case <-change.idle:
	case <-timeout.C:
	case <-ctx.Done():
	}
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.changing[id] == change {
			delete(a.changing, id)
		}
	}
}

// noteIdle is called under addressChanges.mu.
func (c *addressChange) noteIdle() {
	select {
	case <-c.idle:
	default:
		close(c.idle)
	}
}

// enter notes a message to a server, and reports whether it may be sent.
func (a *addressChanges) enter(id raft.ServerID, to raft.ServerAddress) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sending[id]++
	change := a.changing[id]
	if change == nil || change.to == to {
		return true
	}
	change.noteIdle()
	return false
}

// leave notes the end of a message, and reports whether it may succeed.
func (a *addressChanges) leave(id raft.ServerID, to raft.ServerAddress) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sending[id]--; a.sending[id] == 0 {
		delete(a.sending, id)
	}
	change := a.changing[id]
	return change == nil || change.to == to
}

// AppendEntries implements raft.Transport.
func (a *addressChanges) AppendEntries(id raft.ServerID, to raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if isHeartbeat(req) {
		return a.raftPeers.AppendEntries(id, to, req, resp)
	}
	err := errAddressChanges
	if a.enter(id, to) {
		err = a.raftPeers.AppendEntries(id, to, req, resp)
	}
	if !a.leave(id, to) && err == nil {
		err = errAddressChanges
	}
	return err
}

// InstallSnapshot implements raft.Transport. After a snapshot Raft reads the server without
// the lock only if the answer has a newer term. Another message returns that too.
func (a *addressChanges) InstallSnapshot(id raft.ServerID, to raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	a.enter(id, to)
	err := a.raftPeers.InstallSnapshot(id, to, req, resp, data)
	if !a.leave(id, to) && err == nil && resp.Term > req.Term {
		err = errAddressChanges
	}
	return err
}
