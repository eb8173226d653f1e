package transport

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
)

// The bound of every kind of frame is the size that Caps needs, and no more.
func TestFrameBoundsFitCaps(t *testing.T) {
	for kind, most := range map[frameKind]uint32{
		frameRequest: state.MaxCommand + callOverhead,
		frameReply:   MaxEntryBytes + callOverhead,
		frameRefused: maxReason,
		frameFailed:  maxReason,
		frameCancel:  0,
		frameOpen:    callOverhead,
		framePush:    MaxEntryBytes + callOverhead,
	} {
		head := func(size uint32) *bufio.Reader {
			b := appendFrame(nil, frame{kind: kind, id: 1})
			binary.LittleEndian.PutUint32(b[4:], size)
			return bufio.NewReader(bytes.NewReader(b))
		}
		_, err := readFrame(head(most + 1))
		require.ErrorIs(t, err, errBadFrame, "kind %d", kind)
		require.ErrorContains(t, err, fmt.Sprint("limit of ", most))
		_, err = readFrame(head(most))
		require.NotErrorIs(t, err, errBadFrame, "kind %d", kind)
	}
	require.LessOrEqual(t, maxReason, callOverhead, "a reply without entries fits")
}

// meteredReader notes the largest buffer that it was given to fill.
type meteredReader struct {
	io.Reader
	largest int
}

func (r *meteredReader) Read(b []byte) (int, error) {
	r.largest = max(r.largest, len(b))
	return r.Reader.Read(b)
}

// A length that is claimed costs no memory before the bytes arrive.
func TestClaimedLengthCostsNoMemory(t *testing.T) {
	for _, sent := range []int{0, 1000, 200_000} {
		r := &meteredReader{Reader: bytes.NewReader(make([]byte, sent))}
		_, err := readBody(r, maxRequest)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		require.LessOrEqual(t, r.largest, max(trustedBody, 2*sent), "%d bytes arrived", sent)
	}
	require.LessOrEqual(t, trustedBody, 64<<10)
}

// callBy makes a call connection to n as the node named id.
func callBy(t *testing.T, n *Network, id string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", n.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	_, err = n.hello.asPeer(id).greet(conn, KindCall, "")
	require.NoError(t, err)
	return conn
}

// send writes a request, answer reads the kind of the next answer.
func send(t *testing.T, conn net.Conn, id uint64, size int) {
	t.Helper()
	_, err := conn.Write(appendFrame(nil, frame{kind: frameRequest, op: 7, id: id, body: make([]byte, size)}))
	require.NoError(t, err)
}

func answer(t *testing.T, conn net.Conn) frame {
	t.Helper()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	f, err := readFrame(bufio.NewReader(conn))
	require.NoError(t, err)
	return f
}

// A node's calls in work are bounded in number and in bytes, over all its
// connections together. Another node's calls are not concerned.
func TestCallsOfOneNodeAreBounded(t *testing.T) {
	for name, bound := range map[string]struct{ calls, size int }{
		"number": {maxAnswering, 0},
		"bytes":  {maxAnsweringBytes / state.MaxTxnBytes, state.MaxTxnBytes},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := startPair(t)
			release := make(chan struct{})
			var inside atomic.Int32
			b.Serve(func(context.Context, byte, []byte) []byte {
				inside.Add(1)
				<-release
				return nil
			})
			first, second := callBy(t, b, "c"), callBy(t, b, "d") // names that are not in Peers are one node
			for i := range bound.calls {
				send(t, first, uint64(i), bound.size)
			}
			require.Eventually(t, func() bool { return int(inside.Load()) == bound.calls }, 10*time.Second, time.Millisecond)
			send(t, second, 1, state.MaxTxnBytes)
			f := answer(t, second)
			assert.Equal(t, frameRefused, f.kind)
			assert.Equal(t, errOverloaded.Error(), string(f.body))
			done := make(chan error, 1)
			go func() {
				_, err := a.Call(testContext(t), b.Addr(), 7, make([]byte, state.MaxTxnBytes))
				done <- err
			}()
			require.Eventually(t, func() bool { return int(inside.Load()) == bound.calls+1 }, 10*time.Second, time.Millisecond)
			close(release)
			require.NoError(t, <-done)
			assert.Equal(t, frameReply, answer(t, first).kind)
			require.Eventually(t, func() bool {
				b.load.mu.Lock()
				defer b.load.mu.Unlock()
				return b.load.of[""] != nil && *b.load.of[""] == (nodeLoad{conns: 2})
			}, 10*time.Second, time.Millisecond)
			send(t, second, 2, state.MaxTxnBytes)
			assert.Equal(t, frameReply, answer(t, second).kind)
		})
	}
}

// Calls count until they end, though their connection is gone.
func TestCallOutlivesItsConnection(t *testing.T) {
	_, b := startPair(t)
	entered, release := make(chan struct{}), make(chan struct{})
	b.Serve(func(context.Context, byte, []byte) []byte {
		close(entered)
		<-release
		return nil
	})
	conn := callBy(t, b, "c")
	send(t, conn, 1, 10)
	<-entered
	conn.Close()
	gone := func(want *nodeLoad) func() bool {
		return func() bool {
			b.load.mu.Lock()
			defer b.load.mu.Unlock()
			return want == nil && b.load.of[""] == nil || want != nil && b.load.of[""] != nil && *b.load.of[""] == *want
		}
	}
	require.Eventually(t, gone(&nodeLoad{calls: 1, bytes: 10}), 10*time.Second, time.Millisecond)
	close(release)
	require.Eventually(t, gone(nil), 10*time.Second, time.Millisecond)
}

// A node has a bounded number of connections; names that are not in Peers
// share theirs.
func TestConnectionsOfOneNodeAreBounded(t *testing.T) {
	a, b := startPair(t)
	mustCall(t, a, b.Addr(), "x")
	b.load.mu.Lock()
	b.load.each.conns = 4
	b.load.mu.Unlock()
	for i := range 4 {
		conn := callBy(t, b, fmt.Sprint("stranger-", i))
		send(t, conn, 1, 0)
		require.Equal(t, frameReply, answer(t, conn).kind)
	}
	conn := callBy(t, b, "stranger-5")
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	_, err := conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	mustCall(t, a, b.Addr(), "another node")
	a.closeConns()
	require.Eventually(t, func() bool {
		b.load.mu.Lock()
		defer b.load.mu.Unlock()
		return b.load.of["a"] == nil
	}, 10*time.Second, time.Millisecond, "a node without connections is forgotten")
}

// A node that comes back through a network that dropped its packets gets
// connections at once, though those it had before are still counted. The silent
// ones make room, not the one in use.
func TestSilentConnectionsMakeRoom(t *testing.T) {
	_, b := startPair(t)
	b.load.mu.Lock()
	b.load.each.conns = 4
	b.load.mu.Unlock()
	used := callBy(t, b, "a")
	asked := uint64(0)
	ask := func(conn net.Conn) {
		asked++
		send(t, conn, asked, 0)
		require.Equal(t, frameReply, answer(t, conn).kind)
	}
	var dead []net.Conn
	for range 12 {
		ask(used)
		conn := callBy(t, b, "a")
		ask(conn)
		dead = append(dead, conn)
	}
	ask(used)
	for i, conn := range dead[:len(dead)-3] {
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
		_, err := conn.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF, "connection %d", i)
	}
	for _, conn := range dead[len(dead)-3:] {
		ask(conn)
	}
}

// Large replies to a node that does not read them are bounded together. Small
// ones, and those to other nodes, are not concerned.
func TestRepliesThatWaitAreBounded(t *testing.T) {
	a, b := startPair(t)
	b.Serve(func(_ context.Context, _ byte, body []byte) []byte {
		return make([]byte, map[int]int{0: 10, 1: maxReply}[len(body)])
	})
	var conns []net.Conn
	for range maxWaitingBytes / maxReply {
		conn := callBy(t, b, "c")
		send(t, conn, 1, 1)
		conns = append(conns, conn)
	}
	waiting := func(bytes int) {
		t.Helper()
		require.Eventually(t, func() bool {
			b.load.mu.Lock()
			defer b.load.mu.Unlock()
			return b.load.of[""] != nil && b.load.of[""].waiting == bytes
		}, 10*time.Second, time.Millisecond)
	}
	waiting(maxWaitingBytes)
	conn := callBy(t, b, "c")
	send(t, conn, 1, 1)
	f := answer(t, conn)
	require.Equal(t, frameFailed, f.kind, "it may have been executed")
	require.Equal(t, errUnread.Error(), string(f.body))
	send(t, conn, 2, 0)
	require.Equal(t, frameReply, answer(t, conn).kind)
	reply, err := a.Call(testContext(t), b.Addr(), 7, []byte("x"))
	require.NoError(t, err)
	require.Len(t, reply, maxReply)
	// A request that is read, or never will be, makes room.
	require.Len(t, answer(t, conns[0]).body, maxReply)
	waiting(maxWaitingBytes - maxReply)
	conns[1].Close()
	waiting(maxWaitingBytes - 2*maxReply)
	send(t, conn, 3, 1)
	require.Len(t, answer(t, conn).body, maxReply)
}
