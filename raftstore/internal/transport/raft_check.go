package transport

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/raft"
)

// checkRPC returns an error if Raft would panic at a request, or at the entries
// in it later: it decodes configurations and trusts pointers of other nodes.
func checkRPC(command any) error {
	switch req := command.(type) {
	case *raft.AppendEntriesRequest:
		for _, e := range req.Entries {
			if err := CheckEntry(e); err != nil {
				return fmt.Errorf("%w: %w", errBadFrame, err)
			}
		}
	case *raft.InstallSnapshotRequest:
		if req.SnapshotVersion != raft.SnapshotVersionMax {
			return fmt.Errorf("%w: a snapshot of version %d", errBadFrame, req.SnapshotVersion)
		}
		if err := checkConfiguration(req.Configuration); err != nil {
			return fmt.Errorf("%w: %w", errBadFrame, err)
		}
	}
	return nil
}

// CheckEntry returns an error for an entry that Raft cannot use. It would panic
// when it reads one.
func CheckEntry(e *raft.Log) error {
	switch {
	case e == nil:
		return errors.New("a log entry is missing")
	case e.Type == raft.LogConfiguration:
		if err := checkConfiguration(e.Data); err != nil {
			return fmt.Errorf("entry %d: %w", e.Index, err)
		}
	case e.Type != raft.LogCommand && e.Type != raft.LogNoop && e.Type != raft.LogBarrier:
		return fmt.Errorf("entry %d is of the unknown type %d", e.Index, e.Type)
	}
	return nil
}

// checkConfiguration decodes data as Raft does, which panics if it cannot.
func checkConfiguration(data []byte) (err error) {
	if len(data) > maxSmallMessage {
		return fmt.Errorf("a configuration of %d bytes, at most %d are possible", len(data), maxSmallMessage)
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("a configuration that cannot be read: %v", r)
		}
	}()
	raft.DecodeConfiguration(data)
	return nil
}

// checkedRequests are the requests of other nodes that Raft can handle. The zero
// value is ready.
type checkedRequests struct {
	stored func(*raft.InstallSnapshotRequest) *raft.InstallSnapshotResponse // may be nil; see RaftTransport
	proven *provenStates

	out  chan raft.RPC // nil before start
	done chan struct{}

	mu      sync.Mutex
	stopped bool
}

// start begins to pass requests on from in, at its first call, except those that
// stored answers. The entries of the senders are noted in seen.
func (r *checkedRequests) start(in <-chan raft.RPC, stored func(*raft.InstallSnapshotRequest) *raft.InstallSnapshotResponse, proven *provenStates) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.out == nil {
		r.stored, r.proven, r.out, r.done = stored, proven, make(chan raft.RPC), make(chan struct{})
		if r.stopped {
			return
		}
		go r.pass(in)
	}
}

// stop ends it.
func (r *checkedRequests) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.out != nil && !r.stopped {
		close(r.done)
	}
	r.stopped = true
}

// pass checks the requests from in and passes them on until done is closed.
func (r *checkedRequests) pass(in <-chan raft.RPC) {
	for {
		select {
		case rpc := <-in:
			if answer, err := r.answer(rpc.Command); answer != nil || err != nil {
				respond(rpc, answer, err)
				continue
			}
			select {
			case r.out <- rpc:
			case <-r.done:
				return
			}
		case <-r.done:
			return
		}
	}
}

// answer answers a request that Raft must not get. It returns nil and no error
// for any other.
func (r *checkedRequests) answer(command any) (answer any, err error) {
	if err := checkRPC(command); err != nil {
		return nil, err
	}
	r.proven.noteSender(command)
	if req, ok := command.(*raft.InstallSnapshotRequest); ok && r.stored != nil {
		if stored := r.stored(req); stored != nil {
			return stored, nil
		}
	}
	return nil, nil
}

// respond answers a request in the place of Raft. The bytes after the request are
// read first because the transport takes it for the next request otherwise.
func respond(rpc raft.RPC, answer any, err error) {
	if rpc.Reader == nil {
		rpc.Respond(answer, err)
		return
	}
	go func() { // ends with the connection at the latest
		_, _ = io.Copy(io.Discard, rpc.Reader)
		rpc.Respond(answer, err)
	}()
}

// entryOverhead is a little more than an entry takes in addition to its data.
const entryOverhead = 128

// cutBatch leaves out of req the entries beyond maxBatchBytes. Raft looks at the entries
// that were sent and sends the rest with the next request.
func cutBatch(req *raft.AppendEntriesRequest) {
	size := 0
	for i, e := range req.Entries {
		size += len(e.Data) + len(e.Extensions) + entryOverhead
		if size > maxBatchBytes && i > 0 {
			req.Entries = req.Entries[:i]
			return
		}
	}
}
