package transport

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// raftStream is the part of the network that Raft's transport uses: its
// connections only, on the address shared with calls.
type raftStream struct {
	n    *Network
	in   chan *trackedConn
	done chan struct{}
	once sync.Once
}

var _ raft.StreamLayer = (*raftStream)(nil)

func newRaftStream(n *Network) *raftStream {
	return &raftStream{n: n, in: make(chan *trackedConn), done: make(chan struct{})}
}

// Accept returns the next connection of another node's Raft.
func (s *raftStream) Accept() (net.Conn, error) {
	select {
	case conn := <-s.in:
		return s.guarded(conn), nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

// guarded returns conn with its messages checked.
func (s *raftStream) guarded(conn *trackedConn) net.Conn {
	readTimeout := max(2*s.n.config.ElectionTimeout, time.Second)
	return newRaftGuard(conn, readTimeout, func(err error) {
		s.n.logPeer(context.Background(), slog.LevelWarn, "a Raft connection was closed", conn.RemoteAddr(), err, "peer", conn.peer)
	})
}

// deliver waits until Raft takes the connection, for as long as a handshake
// may take.
func (s *raftStream) deliver(conn *trackedConn) {
	timer := time.NewTimer(s.n.timeout)
	defer timer.Stop()
	select {
	case s.in <- conn:
	case <-s.done:
		conn.Close()
	case <-timer.C:
		conn.Close()
		s.n.logPeer(context.Background(), slog.LevelWarn, "a Raft connection was dropped", conn.RemoteAddr(), errNotTaken)
	}
}

// errNotTaken says that Raft's transport, which accepts connections one by one,
// is stuck or has ended.
var errNotTaken = errors.New("the connection is not taken by Raft")

// Dial connects to another node's Raft.
func (s *raftStream) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	select {
	case <-s.done:
		return nil, net.ErrClosed
	default:
	}
	ctx := context.Background()
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	conn, err := s.n.dial(ctx, KindRaft, string(address))
	if err != nil {
		return nil, err
	}
	return s.guarded(conn), nil
}

// Addr returns the address that the others know this node by.
func (s *raftStream) Addr() net.Addr { return raftAddr(s.n.self) }

// Close ends Raft's use of the network and its connections; calls go on.
func (s *raftStream) Close() error {
	s.stop()
	s.n.reg.endAll(func(e *registered) bool { return e.conn != nil && e.conn.kind == KindRaft })
	return nil
}

func (s *raftStream) stop() { s.once.Do(func() { close(s.done) }) }

// raftAddr is an address as the settings have it: names stay names.
type raftAddr string

func (raftAddr) Network() string  { return "tcp" }
func (a raftAddr) String() string { return string(a) }
