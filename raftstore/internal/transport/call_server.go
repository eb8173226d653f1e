package transport

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

const callReadBuffer = 64 << 10

// overloaded and fullOfClients begin the reasons of refusals because of a limit.
const (
	overloaded    = "the node answers too many calls already"
	fullOfClients = "the node has as many clients as it can serve"
)

var (
	errOverloaded = errors.New(overloaded)
	errUnread     = errors.New("too many large replies wait to be read")
)

// answering is one connection's requests under way.
type answering struct {
	load    *load
	owner   string         // whose load it is
	handler func() Handler // returns nil while the node does not serve
	streams *streams       // nil on the connection of a node
	w       *frameWriter
	wg      sync.WaitGroup
	mu      sync.Mutex
	cancels map[uint64]context.CancelFunc
}

// answerCalls answers the requests on one accepted connection, until it ends.
func (n *Network) answerCalls(ctx context.Context, conn *trackedConn) {
	a := &answering{load: n.load, owner: n.owner(conn.peer), w: newFrameWriter(), handler: n.nodeHandler}
	a.serve(withCaller(ctx, ServerID(conn.peer, conn.hello.Life)), n, conn, callReadBuffer)
}

func (n *Network) nodeHandler() Handler {
	if h := n.handler.Load(); h != nil {
		return *h
	}
	return nil
}

// serve answers until the connection ends.
func (a *answering) serve(ctx context.Context, n *Network, conn *trackedConn, buffer int) {
	ctx, cancel := context.WithCancel(ctx)
	a.cancels = map[uint64]context.CancelFunc{}
	a.wg.Go(func() {
		_ = a.w.run(conn) // the reader below ends with the connection
		conn.Close()
	})
	err := a.read(ctx, bufio.NewReaderSize(conn, buffer))
	cancel()
	a.w.fail(err)
	conn.Close()
	a.wg.Wait()
	if errors.Is(err, errBadFrame) || errors.Is(err, ErrPeerRefused) {
		n.logPeer(ctx, slog.LevelWarn, "a call connection was closed", conn.RemoteAddr(), err, "peer", conn.peer)
	}
}

func (a *answering) read(ctx context.Context, r *bufio.Reader) error {
	for {
		f, err := readFrame(r)
		if err != nil {
			return err
		}
		switch {
		case f.kind == frameRequest:
			err = a.begin(ctx, f)
		case f.kind == frameCancel:
			a.end(f.id)
		case f.kind == frameOpen && a.streams != nil:
			err = a.open(ctx, f)
		default:
			err = fmt.Errorf("%w: kind %d from a caller", errBadFrame, f.kind)
		}
		if err != nil {
			return err
		}
	}
}

// begin starts answering one request in a goroutine of its own.
func (a *answering) begin(ctx context.Context, f frame) error {
	h := a.handler()
	if h == nil {
		return a.refuse(f.id, errNotServing)
	}
	ctx, cancel := withBudget(ctx, f.budget)
	_, err := a.accept(f, cancel, func() { a.answer(ctx, h, f) })
	return err
}

// accept starts work on a request, which cancel ends, unless it is refused. An
// error ends the connection.
func (a *answering) accept(f frame, cancel context.CancelFunc, work func()) (begun bool, err error) {
	a.mu.Lock()
	_, twice := a.cancels[f.id]
	accepted := !twice && a.load.begin(a.owner, len(f.body))
	if accepted {
		a.cancels[f.id] = cancel
	}
	a.mu.Unlock()
	switch {
	case twice:
		cancel()
		return false, fmt.Errorf("%w: request ID %d is in use", errBadFrame, f.id)
	case !accepted:
		cancel()
		return false, a.refuse(f.id, errOverloaded)
	}
	a.wg.Go(work)
	return true, nil
}

func withBudget(ctx context.Context, budget time.Duration) (context.Context, context.CancelFunc) {
	if budget > 0 {
		return context.WithTimeout(ctx, budget)
	}
	return context.WithCancel(ctx)
}

func (a *answering) refuse(id uint64, why error) error {
	_, err := a.w.queue(frame{kind: frameRefused, id: id, body: []byte(why.Error())})
	return err
}

func (a *answering) answer(ctx context.Context, h Handler, f frame) {
	defer a.load.end(a.owner, len(f.body))
	defer a.end(f.id)
	reply := frame{kind: frameReply, id: f.id, body: h(ctx, f.op, f.body)}
	if ctx.Err() != nil {
		// The reply of a handler after its time is no answer: the caller's
		// own deadline is the one it goes by.
		return
	}
	if len(reply.body) > maxReply {
		reply.kind = frameFailed
		reply.body = fmt.Appendf(nil, "a reply of %d bytes is above the limit of %d", len(reply.body), maxReply)
	}
	if err := a.send(reply); errors.Is(err, errBacklog) {
		// A peer that does not read its replies is better served by a new
		// connection.
		a.w.fail(err)
	}
}

// send queues a reply. If too many large ones wait to be written, it says that
// there is none.
func (a *answering) send(reply frame) error {
	size := len(reply.body)
	if size <= a.load.small {
		_, err := a.w.queue(reply)
		return err
	}
	if !a.load.reply(a.owner, size) {
		reply.kind, reply.body = frameFailed, []byte(errUnread.Error())
		_, err := a.w.queue(reply)
		return err
	}
	replied := func() { a.load.replied(a.owner, size) }
	_, err := a.w.queueThen(reply, replied)
	if err != nil {
		replied()
	}
	return err
}

// end releases a request's context and forgets it.
func (a *answering) end(id uint64) {
	a.mu.Lock()
	cancel := a.cancels[id]
	delete(a.cancels, id)
	a.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}
