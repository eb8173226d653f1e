package transport

import (
	"io"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

// A heartbeat that is under way when the node closes is waited for before the
// log is closed, and later ones do not reach Raft.
func TestHeartbeatsEndBeforeTheLog(t *testing.T) {
	open := func() *raft.NetworkTransport {
		n, err := raft.NewTCPTransport("127.0.0.1:0", nil, 1, 10*time.Second, io.Discard)
		require.NoError(t, err)
		t.Cleanup(func() { _ = n.Close() })
		return n
	}
	server := &RaftTransport{NetworkTransport: open()}
	client := open()
	entered, leave := make(chan struct{}), make(chan struct{})
	server.SetHeartbeatHandler(func(rpc raft.RPC) {
		entered <- struct{}{}
		<-leave
		rpc.Respond(&raft.AppendEntriesResponse{Success: true}, nil)
	})
	beat := func() error {
		leader := []byte("a")
		req := &raft.AppendEntriesRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, Addr: leader}, Term: 1, Leader: leader} //nolint:staticcheck // Raft recognises a heartbeat by it
		return client.AppendEntries("b", server.LocalAddr(), req, &raft.AppendEntriesResponse{})
	}
	answer := make(chan error, 1)
	go func() { answer <- beat() }()
	<-entered

	drained := make(chan struct{})
	go func() { server.Drain(); close(drained) }()
	require.Eventually(t, func() bool { return beat() != nil }, 10*time.Second, time.Millisecond, "a heartbeat reaches Raft")
	select {
	case <-drained:
		t.Fatal("a heartbeat is under way")
	default:
	}
	close(leave)
	require.NoError(t, <-answer)
	<-drained
}
