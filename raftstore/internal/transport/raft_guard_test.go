package transport

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/internal/bubble"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/logging"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
)

// raftOf returns a transport of Raft on n, and closes it.
func raftOf(t testing.TB, n *Network) *RaftTransport {
	t.Helper()
	trans := &RaftTransport{NetworkTransport: raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		ServerAddressProvider: n, Stream: n.raftLayer(), MaxPool: 3, Timeout: 5 * time.Second, Logger: logging.NewHCLogger(n.log),
	})}
	t.Cleanup(func() { require.NoError(t, trans.Close()) })
	return trans
}

// serveRaft answers every request with the result of respond.
func serveRaft(t testing.TB, trans *RaftTransport, respond func(raft.RPC) any) {
	t.Helper()
	ctx := t.Context()
	in := trans.Consumer()
	go func() {
		for {
			select {
			case rpc := <-in:
				rpc.Respond(respond(rpc), nil)
			case <-ctx.Done():
				return
			}
		}
	}()
}

// header names a node as the sender of a request.
func header(id string) raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(id), Addr: []byte("127.0.0.1:1")}
}

// entriesOfSize returns count entries with that much data each.
func entriesOfSize(count, size int) (list []*raft.Log) {
	for i := range count {
		list = append(list, &raft.Log{Index: uint64(i + 1), Term: 1 << 40, Data: bytes.Repeat([]byte{byte(i)}, size), AppendedAt: time.Now()})
	}
	return list
}

// Everything that Raft sends passes, also the largest of it.
func TestGuardLetsRaftPass(t *testing.T) {
	a, b := startPair(t)
	from, to := raftOf(t, a), raftOf(t, b)
	var got any
	var snapshot []byte
	serveRaft(t, to, func(rpc raft.RPC) any {
		got = rpc.Command
		switch req := rpc.Command.(type) {
		case *raft.AppendEntriesRequest:
			return &raft.AppendEntriesResponse{RPCHeader: header("b"), Term: req.Term, LastLog: 7, Success: true}
		case *raft.InstallSnapshotRequest:
			snapshot, _ = io.ReadAll(rpc.Reader)
			return &raft.InstallSnapshotResponse{RPCHeader: header("b"), Success: true}
		case *raft.RequestVoteRequest:
			return &raft.RequestVoteResponse{RPCHeader: header("b"), Granted: true}
		case *raft.RequestPreVoteRequest:
			return &raft.RequestPreVoteResponse{RPCHeader: header("b"), Granted: true}
		default:
			return &raft.TimeoutNowResponse{RPCHeader: header("b")}
		}
	})
	addr := raft.ServerAddress(b.Addr())
	config := raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "a", Address: "x:1"}, {ID: "b", Address: "y:1"}}})
	for range 2 { // over a pooled connection too
		for name, entries := range map[string][]*raft.Log{
			"none":   nil,
			"small":  entriesOfSize(MaxBatch, 1000),
			"empty":  entriesOfSize(MaxBatch, 0),
			"one":    entriesOfSize(1, state.MaxCommand),
			"config": {{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: config, Extensions: []byte("x")}},
		} {
			req := &raft.AppendEntriesRequest{RPCHeader: header("a"), Term: 1 << 60, Leader: []byte("x:1"), PrevLogEntry: 3, PrevLogTerm: 2, Entries: entries, LeaderCommitIndex: 9} //nolint:staticcheck // Raft sends it
			var resp raft.AppendEntriesResponse
			require.NoError(t, from.AppendEntries("b", addr, req, &resp), name)
			require.True(t, resp.Success)
			require.Len(t, got.(*raft.AppendEntriesRequest).Entries, len(entries), name)
			for i, e := range got.(*raft.AppendEntriesRequest).Entries {
				require.Equal(t, entries[i].Data, e.Data)
			}
		}
		require.NoError(t, from.RequestVote("b", addr, &raft.RequestVoteRequest{RPCHeader: header("a#0102030405060708"), Term: 2, LastLogIndex: 1 << 50}, &raft.RequestVoteResponse{}))
		require.NoError(t, from.RequestPreVote("b", addr, &raft.RequestPreVoteRequest{RPCHeader: header("a"), Term: 2}, &raft.RequestPreVoteResponse{}))
		require.NoError(t, from.TimeoutNow("b", addr, &raft.TimeoutNowRequest{RPCHeader: header("a")}, &raft.TimeoutNowResponse{}))
		for _, size := range []int{0, 1, 5_000_000} {
			data := bytes.Repeat([]byte("snap"), size/4+1)[:size]
			req := &raft.InstallSnapshotRequest{RPCHeader: header("a"), SnapshotVersion: raft.SnapshotVersionMax, Term: 3, Configuration: config, Size: int64(size)}
			require.NoError(t, from.InstallSnapshot("b", addr, req, &raft.InstallSnapshotResponse{}, bytes.NewReader(data)))
			require.True(t, bytes.Equal(data, snapshot), "%d bytes", size)
		}
	}
	pipeline, err := from.AppendEntriesPipeline("b", addr)
	require.NoError(t, err)
	for range 3 {
		req := &raft.AppendEntriesRequest{RPCHeader: header("a"), Term: 1, PrevLogEntry: 1, Entries: entriesOfSize(3, 100_000)}
		f, err := pipeline.AppendEntries(req, &raft.AppendEntriesResponse{})
		require.NoError(t, err)
		require.NoError(t, (<-pipeline.Consumer()).Error())
		require.NoError(t, f.Error())
	}
	require.NoError(t, pipeline.Close())
}

// A message to a follower is cut to the size that the follower accepts, at the first
// sending and in a pipeline.
func TestBatchesAreCut(t *testing.T) {
	for _, tc := range []struct{ count, size, sent int }{
		{MaxBatch, 1000, MaxBatch},
		{MaxBatch, state.MaxCommand, 1},
		{MaxBatch, 100_000, maxBatchBytes / (100_000 + entryOverhead)},
		{1, 2 * maxBatchBytes, 1}, // never nothing, or Raft would not get on
		{0, 0, 0},
	} {
		req := &raft.AppendEntriesRequest{Entries: entriesOfSize(tc.count, tc.size)}
		cutBatch(req)
		require.Len(t, req.Entries, tc.sent, "%d of %d bytes", tc.count, tc.size)
	}
	a, b := startPair(t)
	from, to := raftOf(t, a), raftOf(t, b)
	serveRaft(t, to, func(raft.RPC) any { return &raft.AppendEntriesResponse{Success: true} })
	addr := raft.ServerAddress(b.Addr())
	req := &raft.AppendEntriesRequest{RPCHeader: header("a"), Entries: entriesOfSize(MaxBatch, state.MaxCommand)}
	require.NoError(t, from.AppendEntries("b", addr, req, &raft.AppendEntriesResponse{}))
	require.Len(t, req.Entries, 1, "Raft would take entries for sent that were not")
}

// fields encodes a map, in the order given.
func fields(t testing.TB, pairs ...any) []byte {
	t.Helper()
	out := []byte{0x80 | byte(len(pairs)/2)}
	for _, v := range pairs {
		if raw, ok := v.(encoded); ok {
			out = append(out, raw...)
			continue
		}
		out = append(out, pack(t, v)...)
	}
	return out
}

// encoded is a value that is encoded already.
type encoded []byte

func pack(t testing.TB, v any) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, codec.NewEncoder(&b, &codec.MsgpackHandle{WriteExt: true}).Encode(v))
	return b.Bytes()
}

// request is the bytes of a request of node "a" with more fields.
func raftRequest(t testing.TB, kind byte, pairs ...any) []byte {
	t.Helper()
	return append([]byte{kind}, fields(t, append([]any{"ID", []byte("a")}, pairs...)...)...)
}

// scanAll returns how many bytes of messages pass, and why no more do.
func scanAll(s *messageScan, in []byte) (passed int, err error) {
	for {
		if size := s.takeSnapshot(); size > 0 {
			if int64(len(in)-passed) < size {
				return passed, io.ErrUnexpectedEOF
			}
			passed += int(size)
			continue
		}
		r := bufio.NewReader(bytes.NewReader(in[passed:]))
		n, err := s.next(r.Peek)
		if err != nil {
			return passed, err
		}
		if n > int64(len(in)-passed) {
			return passed, io.ErrUnexpectedEOF
		}
		passed += int(n)
	}
}

// A message that Raft does not send is refused, before the transport sees it.
func TestGuardRefuses(t *testing.T) {
	list := func(head []byte, count int, element byte) encoded {
		return append(head, bytes.Repeat([]byte{element}, count)...)
	}
	deep := encoded(append(bytes.Repeat([]byte{0x91}, 5), 0xc0))
	for name, tc := range map[string]struct {
		in   []byte
		want string
	}{
		"unknown kind":       {[]byte{9}, "unknown kind 9"},
		"no fields":          {[]byte{rpcRequestVote, 0xc0}, "without fields"},
		"fields by position": {[]byte{rpcRequestVote, 0x91, 0x01}, "without fields"},
		"no sender":          {append([]byte{rpcRequestVote}, fields(t, "Term", 1)...), "does not name its sender"},
		"empty":              {[]byte{rpcTimeoutNow, 0x80}, "does not name its sender"},
		"another sender":     {append([]byte{rpcRequestVote}, fields(t, "ID", "b")...), `node "a" sent a Raft request as "b"`},
		"two senders":        {raftRequest(t, rpcRequestVote, "ID", "b"), `as "b"`},
		"a longer name":      {append([]byte{rpcRequestVote}, fields(t, "ID", "ab#1")...), `as "ab#1"`},
		"long sender":        {append([]byte{rpcRequestVote}, fields(t, "ID", strings.Repeat("a", 1000))...), "no text"},
		"list as sender":     {append([]byte{rpcRequestVote}, fields(t, "ID", []int{1})...), "no text"},
		"number as name":     {append([]byte{rpcRequestVote}, fields(t, 1, 1)...), "no text"},
		"long name":          {append([]byte{rpcRequestVote}, fields(t, strings.Repeat("x", 100), 1)...), "no text"},
		"many entries":       {raftRequest(t, rpcAppendEntries, "Entries", list([]byte{0xdc, 0, MaxBatch + 1}, MaxBatch+1, 0x80)), "65 elements"},
		"a million entries":  {raftRequest(t, rpcAppendEntries, "Entries", list([]byte{0xdd, 0, 0x10, 0, 0}, 1<<20, 0x80)), "1048576 elements"},
		"claimed entries":    {raftRequest(t, rpcAppendEntries, "Entries", encoded{0xdd, 0xff, 0xff, 0xff, 0xff}), "4294967295 elements"},
		"many fields":        {raftRequest(t, rpcAppendEntries, "Entries", encoded{0xdf, 0, 0, 1, 0}), "256 elements"},
		"deep":               {raftRequest(t, rpcAppendEntries, "x", deep), "levels"},
		"large entries":      {raftRequest(t, rpcAppendEntries, "Leader", make([]byte, maxAppend)), "bound of bytes"},
		"claimed bytes":      {raftRequest(t, rpcAppendEntries, "Leader", encoded{0xc6, 0x7f, 0xff, 0xff, 0xff}), "bound of bytes"},
		"more claimed bytes": {raftRequest(t, rpcAppendEntries, "Leader", encoded{0xc6, 0xff, 0xff, 0xff, 0xff}), "4294967295"},
		"large vote":         {raftRequest(t, rpcRequestVote, "Candidate", make([]byte, maxSmallMessage)), "bound of bytes"},
		"large transfer":     {raftRequest(t, rpcTimeoutNow, "Addr", make([]byte, maxSmallMessage)), "bound of bytes"},
		"large snapshot":     {raftRequest(t, rpcInstallSnapshot, "Size", int64(maxSnapshot)+1), "a snapshot of more than"},
		"negative snapshot":  {raftRequest(t, rpcInstallSnapshot, "Size", -5), "a snapshot of more than"},
		"no MessagePack":     {raftRequest(t, rpcRequestVote, "Term", encoded{0xc1}), "no MessagePack"},
	} {
		s := &messageScan{peer: "a"}
		good := raftRequest(t, rpcRequestVote, "Term", 1)
		passed, err := scanAll(s, append(good, tc.in...))
		require.Truef(t, errors.Is(err, errBadFrame) || errors.Is(err, ErrPeerRefused), "%s: %v", name, err)
		require.ErrorContains(t, err, tc.want, name)
		require.GreaterOrEqual(t, passed, len(good), name)
	}
	// Replies have no sender; their bound is the same.
	reply := append(pack(t, ""), fields(t, "Term", 1)...)
	_, err := scanAll(&messageScan{replies: true}, append(reply, reply...))
	require.Equal(t, io.EOF, err)
	_, err = scanAll(&messageScan{replies: true}, pack(t, make([]byte, maxSmallMessage)))
	require.ErrorIs(t, err, errBadFrame)
	_, err = scanAll(&messageScan{peer: "a"}, []byte{rpcRequestVote, 0x81})
	require.Equal(t, io.ErrUnexpectedEOF, err)
}

// A message of the scan is also one of the transport's
// decoder, so that nothing passes unchecked.
func FuzzMessageScan(f *testing.F) {
	seed := func(kind byte, v any) {
		var b bytes.Buffer
		b.WriteByte(kind)
		require.NoError(f, codec.NewEncoder(&b, &codec.MsgpackHandle{}).Encode(v))
		f.Add(b.Bytes())
	}
	seed(rpcAppendEntries, &raft.AppendEntriesRequest{RPCHeader: header("a"), Term: 1 << 40, Entries: entriesOfSize(2, 3)})
	seed(rpcInstallSnapshot, &raft.InstallSnapshotRequest{RPCHeader: header("a"), Size: 3, Configuration: []byte("x")})
	seed(rpcRequestVote, &raft.RequestVoteRequest{RPCHeader: header("a"), LeadershipTransfer: true})
	seed(rpcTimeoutNow, &raft.TimeoutNowRequest{RPCHeader: header("a")})
	f.Add(raftRequest(f, rpcAppendEntries, "Term", encoded{0xcb, 1, 2, 3, 4, 5, 6, 7, 8}, "x", encoded{0xd8, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}))
	f.Fuzz(func(t *testing.T, in []byte) {
		s := &messageScan{peer: "a"}
		passed := 0
		for first := true; first || s.values > 0; first = false {
			n, err := s.next(bufio.NewReader(bytes.NewReader(in[passed:])).Peek)
			if err != nil || n > int64(len(in)-passed) {
				return
			}
			passed += int(n)
		}
		v := map[byte]any{
			rpcAppendEntries: &raft.AppendEntriesRequest{}, rpcRequestVote: &raft.RequestVoteRequest{},
			rpcInstallSnapshot: &raft.InstallSnapshotRequest{}, rpcTimeoutNow: &raft.TimeoutNowRequest{},
			rpcRequestPreVote: &raft.RequestPreVoteRequest{},
		}[in[0]]
		r := bytes.NewReader(in[1:])
		buffered := bufio.NewReader(r)
		if err := codec.NewDecoder(buffered, &codec.MsgpackHandle{}).Decode(v); err != nil {
			return // the transport closes the connection
		}
		require.Equal(t, passed, len(in)-r.Len()-buffered.Buffered(), "the bytes of a message")
		require.Equal(t, "a", string(v.(raft.WithRPCHeader).GetRPCHeader().ID))
		if snapshot, ok := v.(*raft.InstallSnapshotRequest); ok {
			require.Equal(t, s.takeSnapshot(), snapshot.Size)
		}
	})
}

// A node that sends messages which Raft does not send loses that connection, with words in
// the log of the other one.
func TestGuardClosesTheConnection(t *testing.T) {
	log := &recorder{}
	a, b := startPair(t, func(c *Options) { c.Logger = log.logger() })
	from, to := raftOf(t, a), raftOf(t, b)
	served := 0
	serveRaft(t, to, func(raft.RPC) any { served++; return &raft.RequestVoteResponse{} })
	addr := raft.ServerAddress(b.Addr())
	require.NoError(t, from.RequestVote("b", addr, &raft.RequestVoteRequest{RPCHeader: header("a")}, &raft.RequestVoteResponse{}))
	require.Error(t, from.RequestVote("b", addr, &raft.RequestVoteRequest{RPCHeader: header("c")}, &raft.RequestVoteResponse{}))
	require.Equal(t, 1, served, "a vote was asked for in another node's name")
	require.Eventually(t, func() bool {
		return strings.Contains(log.String(), fmt.Sprintf("node %q sent a Raft request as", "a")) ||
			strings.Contains(log.String(), `node \"a\" sent a Raft request as \"c\"`)
	}, 10*time.Second, time.Millisecond)
	require.NoError(t, from.RequestVote("b", addr, &raft.RequestVoteRequest{RPCHeader: header("a")}, &raft.RequestVoteResponse{}))
}

// A request that does not arrive in time costs its connection; one that has not
// begun does not.
func TestGuardIsPatientBetweenRequests(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		const readTimeout = time.Second
		vote := raftRequest(t, rpcRequestVote, "Term", 1)
		for name, tc := range map[string]struct {
			send func(conn net.Conn)
			ok   bool
		}{
			"between requests": {func(conn net.Conn) {
				for range 3 {
					<-time.After(10 * readTimeout)
					_, _ = conn.Write(vote)
				}
			}, true},
			"within a request": {func(conn net.Conn) {
				_, _ = conn.Write(vote[:5])
				<-time.After(2 * readTimeout)
				_, _ = conn.Write(vote[5:])
			}, false},
			"drop by drop": {func(conn net.Conn) {
				for _, b := range vote {
					<-time.After(readTimeout / 4)
					_, _ = conn.Write([]byte{b})
				}
			}, false},
			"within a snapshot": {func(conn net.Conn) {
				_, _ = conn.Write(raftRequest(t, rpcInstallSnapshot, "Size", 10))
				<-time.After(2 * readTimeout)
				_, _ = conn.Write(make([]byte, 10))
			}, false},
			"a snapshot that takes its time": {func(conn net.Conn) {
				_, _ = conn.Write(raftRequest(t, rpcInstallSnapshot, "Size", 10*snapshotRate))
				for range 10 {
					<-time.After(readTimeout * 9 / 10)
					_, _ = conn.Write(make([]byte, snapshotRate))
				}
				<-time.After(10 * readTimeout)
				_, _ = conn.Write(vote)
			}, true},
			"a snapshot drop by drop": {func(conn net.Conn) {
				_, _ = conn.Write(raftRequest(t, rpcInstallSnapshot, "Size", 10))
				for range 10 {
					<-time.After(readTimeout * 9 / 10)
					_, _ = conn.Write([]byte{0})
				}
			}, false},
		} {
			near, far := net.Pipe()
			g := newRaftGuard(&trackedConn{Conn: near, peer: "a", leave: func() {}}, readTimeout, func(error) {})
			sent := make(chan struct{})
			go func() {
				tc.send(far)
				far.Close()
				close(sent)
			}()
			_, err := io.Copy(io.Discard, g)
			near.Close()
			<-sent
			assert.Equal(t, tc.ok, err == nil, "%s: %v", name, err)
		}
	})
}

// Raft would panic at these, in the program around the node.
func TestRequestsThatRaftCannotHandle(t *testing.T) {
	a, b := startPair(t)
	from, to := raftOf(t, a), raftOf(t, b)
	serveRaft(t, to, func(rpc raft.RPC) any {
		assert.Failf(t, "Raft was asked", "%T", rpc.Command)
		return nil
	})
	addr := raft.ServerAddress(b.Addr())
	many := bytes.Repeat([]byte{0x80}, 1<<20)
	config := append([]byte{0x81}, append(pack(t, "Servers"), append([]byte{0xdd, 0, 0x10, 0, 0}, many...)...)...)
	for name, e := range map[string]*raft.Log{
		"no configuration":      {Index: 1, Type: raft.LogConfiguration, Data: []byte("x")},
		"empty configuration":   {Index: 1, Type: raft.LogConfiguration},
		"a million servers":     {Index: 1, Type: raft.LogConfiguration, Data: config},
		"unknown type":          {Index: 1, Type: 200},
		"peer of an older Raft": {Index: 1, Type: raft.LogAddPeerDeprecated},
	} {
		req := &raft.AppendEntriesRequest{RPCHeader: header("a"), Term: 1, Entries: []*raft.Log{e}}
		err := from.AppendEntries("b", addr, req, &raft.AppendEntriesResponse{})
		require.ErrorContains(t, err, errBadFrame.Error(), name)
	}
	for name, req := range map[string]*raft.InstallSnapshotRequest{
		"no configuration": {SnapshotVersion: raft.SnapshotVersionMax, Configuration: []byte("x")},
		"old version":      {SnapshotVersion: raft.SnapshotVersionMin, Peers: []byte("x")},
	} {
		req.RPCHeader, req.Size = header("a"), 100_000
		err := from.InstallSnapshot("b", addr, req, &raft.InstallSnapshotResponse{}, bytes.NewReader(bytes.Repeat([]byte{9}, int(req.Size))))
		require.ErrorContains(t, err, errBadFrame.Error(), name)
	}
	// An entry that is missing comes last: without the check it panics before Raft is asked.
	conn := sendRaw(t, a, b, raftRequest(t, rpcAppendEntries, "Term", 1, "Entries", encoded{0x91, 0xc0}))
	reply := make([]byte, 200)
	n, err := conn.Read(reply)
	require.NoError(t, err)
	require.Contains(t, string(reply[:n]), "a log entry is missing")
}

// sendRaw makes a Raft connection from a to b and writes in to it.
func sendRaw(t *testing.T, a, b *Network, in []byte) net.Conn {
	t.Helper()
	conn, err := a.dial(testContext(t), KindRaft, b.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	_, err = conn.Write(in)
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	return conn
}
