package raftstore

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/holdfast-dcs/holdfast/internal/backoff"
)

// patientTransport resends entries itself if sending them fails. Raft doubles the
// pause of its replication after each failure that the transport returns, up to
// 10.24 s, and nothing that the server does shortens that pause. A server that was
// away for half a minute would be sent nothing for ten seconds after its return.
// AppendEntries may be sent again at any time. A snapshot is a stream, and is not
// begun while the server answers nothing.
type patientTransport struct {
	raftPeers

	life  context.Context //nolint:containedctx // the node's end
	pause time.Duration
	// wanted reports whether this node leads in that term, with that server in its
	// configuration. Only then is a message sent again.
	wanted func(id raft.ServerID, term uint64) bool

	mu     sync.Mutex
	silent map[raft.ServerID]chan struct{} // closed when the server answers
}

// raftPeers are the methods of a transport that Raft uses. Raft detects by a type
// assertion whether there is a pre-vote.
type raftPeers interface {
	raft.Transport
	raft.WithPreVote
}

func newPatientTransport(life context.Context, t raftPeers, pause time.Duration, wanted func(raft.ServerID, uint64) bool) *patientTransport {
	return &patientTransport{raftPeers: t, life: life, pause: pause, wanted: wanted, silent: map[raft.ServerID]chan struct{}{}}
}

// AppendEntries implements raft.Transport.
func (t *patientTransport) AppendEntries(id raft.ServerID, to raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	for {
		err := t.raftPeers.AppendEntries(id, to, req, resp)
		t.noteOutcome(id, err)
		if err == nil || isHeartbeat(req) {
			return err
		}
		backoff.Sleep(t.life, t.pause)
		if t.life.Err() != nil || !t.wanted(id, req.Term) {
			return err
		}
	}
}

// InstallSnapshot implements raft.Transport.
func (t *patientTransport) InstallSnapshot(id raft.ServerID, to raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	for t.life.Err() == nil && t.wanted(id, req.Term) && !t.answers(id) {
		continue
	}
	err := t.raftPeers.InstallSnapshot(id, to, req, resp, data)
	t.noteOutcome(id, err)
	return err
}

// noteOutcome records the outcome of a message to a server.
func (t *patientTransport) noteOutcome(id raft.ServerID, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	answers := t.silent[id]
	switch {
	case err != nil && answers == nil:
		t.silent[id] = make(chan struct{})
	case err == nil && answers != nil:
		close(answers)
		delete(t.silent, id)
	}
}

// answers waits until a server answers heartbeats, for t.pause at most, and reports
// whether it does.
func (t *patientTransport) answers(id raft.ServerID) bool {
	t.mu.Lock()
	answers := t.silent[id]
	t.mu.Unlock()
	if answers == nil {
		return true
	}
	timer := time.NewTimer(t.pause)
	defer timer.Stop()
	select {
	case <-answers:
		return true
	case <-timer.C:
	case <-t.life.Done():
	}
	return false
}

// isHeartbeat reports whether the receiver treats req as a heartbeat, in which neither
// its main loop nor its disk has a part. Raft's transport decides by the same fields.
func isHeartbeat(req *raft.AppendEntriesRequest) bool {
	return req.Term != 0 && req.PrevLogEntry == 0 && req.PrevLogTerm == 0 &&
		len(req.Entries) == 0 && req.LeaderCommitIndex == 0
}
