package transport

import (
	"io"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// RaftTransport is Raft's network transport, with bounded messages, requests that
// are checked, and an end of its heartbeats that can be waited for. A
// NetworkTransport handles heartbeats in goroutines that neither its Close nor
// Raft's Shutdown waits for. One that is still under way when the log is closed
// makes Raft panic ("failed to save current term").
type RaftTransport struct {
	// NetworkTransport must use the stream layer of a [Network].
	*raft.NetworkTransport
	// Ready is called when NewRaft has read the stores, before it starts.
	Ready func()
	// Stored answers the request to install a snapshot that Raft must not install,
	// because this node has its last entry already. It returns nil for any other.
	Stored func(req *raft.InstallSnapshotRequest) *raft.InstallSnapshotResponse

	checked checkedRequests

	mu      sync.Mutex
	stopped bool
	running sync.WaitGroup

	proven   provenStates
	answered map[string]lastAnswer // under mu: by the node's name, so that they are few
}

// lastAnswer is when a server last answered.
type lastAnswer struct {
	id raft.ServerID
	at dcs.Instant
}

// AppendEntries implements raft.Transport. It leaves out entries beyond the
// bound of a message, and notes the log that the server has.
func (t *RaftTransport) AppendEntries(id raft.ServerID, to raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	cutBatch(req)
	err := t.NetworkTransport.AppendEntries(id, to, req, resp)
	t.noteAnswer(id, err)
	switch {
	case err != nil:
	case resp.Success && req.Term == resp.Term:
		t.proven.note(id, ProvenState{Term: resp.Term, Log: endOf(req)})
	default:
		t.proven.note(id, ProvenState{Term: resp.Term})
	}
	return err
}

// InstallSnapshot implements raft.Transport. It notes the answer.
func (t *RaftTransport) InstallSnapshot(id raft.ServerID, to raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	err := t.NetworkTransport.InstallSnapshot(id, to, req, resp, data)
	t.noteAnswer(id, err)
	return err
}

// noteAnswer notes that a server has answered now, unless err is not nil.
func (t *RaftTransport) noteAnswer(id raft.ServerID, err error) {
	if err != nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.answered == nil {
		t.answered = map[string]lastAnswer{}
	}
	t.answered[NodeOf(id)] = lastAnswer{id, dcs.Now()}
}

// LastContact returns the time since a server last answered a request to append
// entries, and whether it ever did.
func (t *RaftTransport) LastContact(id raft.ServerID) (since time.Duration, ever bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	last := t.answered[NodeOf(id)]
	return last.at.Elapsed(), last.id == id
}

// RequestVote implements raft.Transport. It notes the term that the server is in.
func (t *RaftTransport) RequestVote(id raft.ServerID, to raft.ServerAddress, req *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	err := t.NetworkTransport.RequestVote(id, to, req, resp)
	if err == nil {
		t.proven.note(id, ProvenState{Term: resp.Term})
	}
	return err
}

// Proven returns the newest proven state of a server, zero without one.
func (t *RaftTransport) Proven(id raft.ServerID) ProvenState { return t.proven.of(id) }

// Consumer implements raft.Transport. Raft calls it once; the goroutine ends with
// Close.
func (t *RaftTransport) Consumer() <-chan raft.RPC {
	t.checked.start(t.NetworkTransport.Consumer(), t.Stored, &t.proven)
	return t.checked.out
}

// Close implements raft.WithClose.
func (t *RaftTransport) Close() error {
	t.checked.stop()
	return t.NetworkTransport.Close()
}

// SetHeartbeatHandler implements raft.Transport. NewRaft calls it last, before it
// starts its goroutines.
func (t *RaftTransport) SetHeartbeatHandler(handle func(raft.RPC)) {
	if t.Ready != nil {
		t.Ready()
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

func (t *RaftTransport) begin() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped {
		return false
	}
	t.running.Add(1)
	return true
}

// Drain refuses further heartbeats and waits for those under way.
func (t *RaftTransport) Drain() {
	t.mu.Lock()
	t.stopped = true
	t.mu.Unlock()
	t.running.Wait()
}
