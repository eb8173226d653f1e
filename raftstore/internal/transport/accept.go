package transport

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/holdfast-dcs/holdfast/internal/backoff"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/logging"
)

// maxPeerLines bounds the lines about peers within [logging.RepeatEvery].
const maxPeerLines = 64

// acceptAll accepts until the listener is closed. Each handshake has a
// goroutine and a deadline of its own: a silent peer holds up nobody.
func (n *Network) acceptAll(ctx context.Context) {
	for {
		conn, err := n.ln.Accept()
		if err == nil {
			n.admitted(ctx, conn)
			continue
		}
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		// Out of file descriptors, most often: others must be closed first.
		n.logPeer(ctx, slog.LevelWarn, "a connection could not be accepted", nil, err)
		backoff.Sleep(ctx, 100*time.Millisecond)
	}
}

// admitted starts the handshakes if there is a place for one more stranger. Else
// it closes the connection, or one that is silent, at once.
func (n *Network) admitted(ctx context.Context, raw net.Conn) {
	p, gone, crowded := n.admit.enter(raw)
	if gone != nil {
		n.reportRefusal(ctx, gone.RemoteAddr(), crowded)
		gone.Close()
	}
	if p == nil || !n.reg.spawn(func() { n.accepted(ctx, p) }) {
		raw.Close()
	}
}

// accepted makes the handshakes and hands the connection over.
func (n *Network) accepted(ctx context.Context, p *place) {
	raw := p.conn
	conn, err := n.handshake(ctx, p)
	if err != nil {
		raw.Close()
		n.admit.leave(p)
		n.reportRefusal(ctx, raw.RemoteAddr(), err)
		return
	}
	load, owner, connect := n.load, n.owner(conn.peer), n.connect
	if conn.kind == KindClient {
		// A name that a client chose is no node's.
		load, owner, connect = n.clients, n.clientOwner(), n.clients.connect
	}
	counted := connect(owner)
	if !counted && conn.kind == KindClient {
		refuseClient(ctx, conn, load.connections) // while it has its place among the unproven ones
	}
	n.admit.leave(p)
	if !counted {
		conn.Close()
		n.reportRefusal(ctx, raw.RemoteAddr(), fmt.Errorf("%w: %s", errCrowded, load.connections))
		return
	}
	leave := conn.leave
	conn.leave = sync.OnceFunc(func() {
		leave()
		load.disconnect(owner)
	})
	conn.counted.Store(true)
	switch conn.kind {
	case KindClient:
		n.answerClient(ctx, conn, owner)
	case KindRaft:
		if s := n.raft.Load(); s != nil {
			s.deliver(conn)
		} else {
			conn.Close()
		}
	case KindSetup:
		n.answerSetup(ctx, conn)
	default:
		n.answerCalls(ctx, conn)
	}
}

// refusing is how long the calls of a client are refused for which there is no
// place, before its connection is closed.
const refusing = 100 * time.Millisecond

// refuseClient refuses a client's first calls, so that the client learns the reason
// and that nothing was done.
func refuseClient(ctx context.Context, conn net.Conn, limit string) {
	ctx, cancel := context.WithTimeout(ctx, refusing)
	defer cancel()
	defer boundBy(ctx, conn)()
	reason := []byte(fullOfClients + ": " + limit)
	for r := bufio.NewReader(conn); ; {
		f, err := readFrame(r)
		if err != nil {
			return // the time is over, most often
		}
		if f.kind != frameRequest && f.kind != frameOpen {
			continue
		}
		if _, err := conn.Write(appendFrame(nil, frame{kind: frameRefused, id: f.id, body: reason})); err != nil {
			return
		}
	}
}

// connect counts one more accepted connection of a node. Where the node has
// enough, the one that has been silent for the longest time makes room: a network
// that drops packets leaves connections behind that are dead on the other side,
// and the node must not wait until their keepalive notices. Names that are not
// in Peers share one count, so that one of them must not close another's.
func (n *Network) connect(owner string) bool {
	for !n.load.connect(owner) {
		var oldest *trackedConn
		if owner != "" {
			oldest = n.reg.quietest(func(t *trackedConn) bool {
				return !t.dialled && t.kind != KindClient && n.owner(t.peer) == owner
			})
		}
		if oldest == nil {
			return false
		}
		oldest.Close()
	}
	return true
}

// reportRefusal logs a connection that was not established. Those that should
// not be made are an operator's concern.
func (n *Network) reportRefusal(ctx context.Context, remote net.Addr, err error) {
	level := slog.LevelDebug
	if errors.Is(err, ErrPeerRefused) || errors.Is(err, errCrowded) {
		level = slog.LevelWarn
	}
	n.logPeer(ctx, level, "a connection was refused", remote, err)
}

// logPeer logs something about the peer at remote, which may be nil. The limit
// is on the message, the kind of failure and the address, because a peer
// chooses its port and can change the text of an error.
func (n *Network) logPeer(ctx context.Context, level slog.Level, msg string, remote net.Addr, err error, args ...any) {
	if !n.log.Enabled(ctx, level) {
		return
	}
	failure := "other"
	for _, kind := range []error{ErrPeerRefused, errCrowded, errBadFrame} {
		if errors.Is(err, kind) {
			failure = kind.Error()
		}
	}
	held, ok := n.refused.Pass(msg + "\x00" + failure + "\x00" + networkOf(hostOf(remote)).String())
	if !ok {
		return
	}
	if remote != nil {
		args = append(args, "remote", remote.String())
	}
	args = append(args, "error", logging.Clip(err.Error()))
	n.log.Log(ctx, level, msg, append(args, held...)...)
}

func (n *Network) handshake(ctx context.Context, p *place) (*trackedConn, error) {
	ctx, cancel := context.WithTimeout(ctx, n.timeout)
	defer cancel()
	// Registered from the start, so that closeConns ends handshakes too.
	leave, err := n.reg.enter(0, cancel, nil)
	if err != nil {
		return nil, err
	}
	defer leave()
	own := n.Greeting()
	conn, k, peer, err := n.identify(ctx, p, own)
	if err := cmp.Or(err, ctx.Err()); err != nil {
		return nil, err
	}
	if k != KindClient {
		n.proven(peer.ID, p.conn)
		n.see(k, peer)
	}
	return n.establish(conn, k, own, peer, false)
}

// identify learns the purpose and the maker of an accepted connection.
func (n *Network) identify(ctx context.Context, p *place, own Hello) (net.Conn, Kind, Hello, error) {
	defer boundBy(ctx, p.conn)()
	bounded := &helloConn{Conn: p.conn, ctx: ctx, turns: n.admit.turns(p), left: helloBytes, spoke: func() { n.admit.spoke(p) }}
	defer bounded.lift()
	conn, byALPN := net.Conn(bounded), Kind(0)
	if n.creds != nil {
		t := tls.Server(bounded, n.creds.server())
		if err := t.HandshakeContext(ctx); err != nil {
			answerPlaintext(err)
			return nil, 0, Hello{}, explainTLS(0, err)
		}
		conn, byALPN = t, alpnKind(t.ConnectionState().NegotiatedProtocol)
	}
	k, peer, err := own.welcome(conn, func(k Kind, id string) error { return n.provesID(conn, k, id) }, n.older)
	if err == nil && n.creds != nil && k != byALPN {
		err = fmt.Errorf("%w: its hello and its ALPN name differ", ErrPeerRefused)
	}
	return conn, k, peer, err
}
