package transport

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// streamBuffer is how many messages of a stream may wait to be received. The
// connection is not read while there are more.
const streamBuffer = 16

// Stream is a client's stream of messages from a node.
type Stream struct {
	c     *callConn
	id    uint64
	in    chan []byte
	ended chan struct{}

	once sync.Once
	err  error // why it ended; read after ended is closed
}

// errStreamClosed ends a stream that its receiver does not want any more.
var errStreamClosed = errors.New("the stream was closed")

// Recv returns the next message.
func (s *Stream) Recv(ctx context.Context) ([]byte, error) {
	select {
	case m := <-s.in:
		return m, nil
	default:
	}
	select {
	case m := <-s.in:
		return m, nil
	case <-s.ended:
		return nil, s.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Close ends the stream.
func (s *Stream) Close() {
	s.end(errStreamClosed)
	c := s.c
	c.mu.Lock()
	_, open := c.streams[s.id]
	delete(c.streams, s.id)
	c.mu.Unlock()
	if open {
		_, _ = c.w.queue(frame{kind: frameCancel, id: s.id}) // else the connection ends it
	}
}

func (s *Stream) end(err error) {
	s.once.Do(func() {
		s.err = err
		close(s.ended)
	})
}

// push hands a message to its stream. It reports false if it can be of none. A
// message of a stream that was closed is dropped.
func (c *callConn) push(f frame) bool {
	c.mu.Lock()
	s, known := c.streams[f.id]
	may := c.conn.kind == KindClient
	c.mu.Unlock()
	if known {
		select {
		case s.in <- f.body:
		case <-s.ended:
		}
	}
	return may
}

// openStream begins a stream to the node at addr.
func (c *callClient) openStream(ctx context.Context, addr string, body []byte) (*Stream, error) {
	conn, err := c.callee(addr).connection(ctx)
	if err != nil {
		return nil, notSent(addr, err)
	}
	conn.mu.Lock()
	defer conn.mu.Unlock()
	if conn.broken != nil {
		return nil, notSent(addr, conn.broken)
	}
	id := conn.next + 1
	if _, err := conn.w.queue(frame{kind: frameOpen, id: id, body: body}); err != nil {
		return nil, notSent(addr, err)
	}
	conn.next = id
	s := &Stream{c: conn, id: id, in: make(chan []byte, streamBuffer), ended: make(chan struct{})}
	if conn.streams == nil {
		conn.streams = map[uint64]*Stream{}
	}
	conn.streams[id] = s
	return s, nil
}

// Open begins a stream of messages from the node at addr, which its
// [ClientHandler] answers. Its beginning is bounded by ctx; Close ends it.
func (c *Client) Open(ctx context.Context, addr string, body []byte) (*Stream, error) {
	if len(body) > callOverhead {
		return nil, notSent(addr, fmt.Errorf("a request of %d bytes is above the limit of %d", len(body), callOverhead))
	}
	return c.calls.openStream(ctx, addr, body)
}
