package transport

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/logging"
)

const (
	// clientBacklog is how much may wait for a client that does not read, beyond
	// one reply.
	clientBacklog = 1 << 20
	// clientWriteTimeout bounds one write to a client.
	clientWriteTimeout = 10 * time.Second
	// clientReadBuffer is small because there may be thousands.
	clientReadBuffer = 4 << 10
	// maxStreams bounds the streams on one connection.
	maxStreams = 4
)

// ClientHandler answers clients: programs that are no nodes. Its calls are made as
// those of a [Handler], and [Caller] names nobody.
type ClientHandler struct {
	Call Handler
	// Stream sends messages until it returns an error, or ctx ends with the
	// connection or with the client's wish. The error's text is sent to the client.
	// push returns when a message is on its way out of this process, so that a
	// client that does not read holds up its own stream only.
	Stream func(ctx context.Context, body []byte, push func([]byte) error) error
}

// ServeClients starts answering clients with h, which replaces the handler before.
// Until then their calls are refused.
func (n *Network) ServeClients(h ClientHandler) { n.forward.Store(&h) }

// Clients returns the number of established connections of clients.
func (n *Network) Clients() int { return n.clients.connected() }

// clientOwner returns whose load the connection of a client is: its own.
func (n *Network) clientOwner() string { return strconv.FormatUint(n.served.Add(1), 10) }

// answerClient answers on one connection of a client, until it ends. Nothing here
// says that a node calls: a vote within a client's request is no node's word
// (P2).
func (n *Network) answerClient(ctx context.Context, conn *trackedConn, owner string) {
	w := newFrameWriter()
	w.most, w.writeTimeout = clientBacklog, clientWriteTimeout
	a := &answering{load: n.clients, owner: owner, w: w, streams: &streams{n: n}, handler: func() Handler {
		if h := n.forward.Load(); h != nil {
			return h.Call
		}
		return nil
	}}
	a.serve(ctx, n, conn, clientReadBuffer)
}

// streams are those of one connection.
type streams struct {
	n     *Network
	count atomic.Int32
}

var errStreams = errors.New("the client has too many streams on one connection")

// open starts a stream.
func (a *answering) open(ctx context.Context, f frame) error {
	h := a.streams.n.forward.Load()
	if h == nil {
		return a.refuse(f.id, errNotServing)
	}
	if a.streams.count.Add(1) > maxStreams {
		a.streams.count.Add(-1)
		return a.refuse(f.id, errStreams)
	}
	ctx, cancel := context.WithCancel(ctx)
	begun, err := a.accept(f, cancel, func() {
		defer a.streams.count.Add(-1)
		defer a.load.end(a.owner, len(f.body))
		defer a.end(f.id)
		err := h.Stream(ctx, f.body, func(body []byte) error { return a.push(ctx, f.id, body) })
		if ctx.Err() == nil && err != nil {
			_ = a.send(frame{kind: frameFailed, id: f.id, body: []byte(logging.Clip(err.Error()))})
		}
	})
	if !begun {
		a.streams.count.Add(-1)
	}
	return err
}

// push sends a message and waits until it is handed to the socket.
func (a *answering) push(ctx context.Context, id uint64, body []byte) error {
	if !a.load.reply(a.owner, len(body)) {
		return errUnread
	}
	written := make(chan struct{})
	then := func() {
		a.load.replied(a.owner, len(body))
		close(written)
	}
	if _, err := a.w.queueThen(frame{kind: framePush, id: id, body: body}, then); err != nil {
		a.load.replied(a.owner, len(body))
		return err
	}
	select {
	case <-written:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
