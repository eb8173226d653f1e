package transport

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backoff"
)

const (
	// firstBackoff and mostBackoff bound the pause after a dial that failed.
	firstBackoff = 10 * time.Millisecond
	mostBackoff  = 500 * time.Millisecond
)

// callClient holds one connection to each node that was called.
type callClient struct {
	dial  func(ctx context.Context, addr string) (*trackedConn, error)
	spawn func(func()) bool // reports false when the network is closed
	// hurry makes a call fail at once while the pause after a failed dial lasts:
	// another node can be called instead.
	hurry bool

	mu sync.Mutex
	to map[string]*callee
}

func newCallClient(dial func(ctx context.Context, addr string) (*trackedConn, error), spawn func(func()) bool) *callClient {
	return &callClient{dial: dial, spawn: spawn, to: map[string]*callee{}}
}

func (c *callClient) callee(addr string) *callee {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.to[addr]
	if t == nil {
		t = &callee{c: c, addr: addr}
		c.to[addr] = t
	}
	return t
}

func (c *callClient) call(ctx context.Context, addr string, op byte, body []byte) ([]byte, error) {
	t := c.callee(addr)
	for {
		if err := ctx.Err(); err != nil {
			return nil, notSent(addr, err)
		}
		conn, err := t.connection(ctx)
		if err != nil {
			return nil, notSent(addr, err)
		}
		reply, err := conn.call(ctx, op, body)
		if errors.Is(err, errBroken) {
			continue // found broken before anything was queued
		}
		return reply, err
	}
}

// connected returns the addresses to which there is a connection, sorted.
func (c *callClient) connected() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var addrs []string
	for addr, t := range c.to {
		if t.isConnected() {
			addrs = append(addrs, addr)
		}
	}
	slices.Sort(addrs)
	return addrs
}

// drop forgets the connection to addr and breaks it after the grace time.
func (c *callClient) drop(addr string, grace time.Duration) {
	c.mu.Lock()
	t := c.to[addr]
	delete(c.to, addr)
	c.mu.Unlock()
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dropped, t.grace = true, grace
	if t.conn != nil {
		t.conn.failAfter(grace)
	}
}

// close breaks every connection.
func (c *callClient) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.to {
		t.mu.Lock()
		if t.conn != nil {
			t.conn.fail(errNetworkClosed)
		}
		t.mu.Unlock()
	}
}

func (t *callee) isConnected() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.conn != nil && !t.conn.isBroken()
}

// callee is a node that is called, and the one connection to it.
type callee struct {
	c    *callClient
	addr string

	mu      sync.Mutex
	conn    *callConn
	dialing *dialing
	fails   int
	why     error         // the last dial failed
	failed  dcs.Instant   // when it did
	backoff time.Duration // the pause after it
	dropped bool          // calls that come later use another callee
	grace   time.Duration // of its connection then
}

// dialing is a dial under way, shared by all calls that wait for it.
type dialing struct {
	done chan struct{}
	conn *callConn
	err  error
}

// connection returns the connection, dialling where there is none. While a
// failed dial's pause lasts it waits, but never beyond ctx.
func (t *callee) connection(ctx context.Context) (*callConn, error) {
	for {
		t.mu.Lock()
		if t.conn != nil && !t.conn.isBroken() {
			defer t.mu.Unlock()
			return t.conn, nil
		}
		if d := t.dialing; d != nil {
			t.mu.Unlock()
			return d.wait(ctx)
		}
		if left := t.backoff - t.failed.Elapsed(); t.backoff > 0 && left > 0 {
			why := t.why
			t.mu.Unlock()
			if t.c.hurry {
				return nil, why
			}
			backoff.Sleep(ctx, left)
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			continue
		}
		d := &dialing{done: make(chan struct{})}
		if !t.c.spawn(func() { t.dial(d) }) {
			t.mu.Unlock()
			return nil, errNetworkClosed
		}
		t.dialing = d
		t.mu.Unlock()
		return d.wait(ctx)
	}
}

func (d *dialing) wait(ctx context.Context) (*callConn, error) {
	select {
	case <-d.done:
		return d.conn, d.err
	case <-ctx.Done():
		return nil, fmt.Errorf("still connecting: %w", ctx.Err())
	}
}

// dial is not bound to the caller that began it: others wait for it too, and
// the next call profits.
func (t *callee) dial(d *dialing) {
	conn, err := t.c.dial(context.Background(), t.addr)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dialing = nil
	defer close(d.done)
	if err == nil {
		d.conn = newCallConn(t.addr, conn)
		if t.c.spawn(d.conn.readReplies) && t.c.spawn(d.conn.write) {
			t.conn, t.fails, t.backoff = d.conn, 0, 0
			if t.dropped {
				d.conn.failAfter(t.grace)
			}
			return
		}
		conn.Close()
		err = errNetworkClosed
	}
	d.conn, d.err = nil, err
	t.why = err
	t.backoff = backoff.Exponential{First: firstBackoff, Most: mostBackoff}.Delay(t.fails)
	t.fails++
	t.failed = dcs.Now()
}

// errBroken says that a connection was broken before a request was queued.
var errBroken = errors.New("the connection is broken")

// callConn is one connection on which requests go out and replies come in.
type callConn struct {
	addr string
	conn *trackedConn
	w    *frameWriter

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]*pendingCall
	streams map[uint64]*Stream
	broken  error
}

// pendingCall is a request that waits for its reply.
type pendingCall struct {
	number uint64 // the writer's
	result chan callResult
}

type callResult struct {
	frame frame
	err   error
}

// pendingCalls spares the hot path an allocation. A call goes back only when
// its channel is certainly empty and will stay so.
var pendingCalls = sync.Pool{New: func() any { return &pendingCall{result: make(chan callResult, 1)} }}

func newCallConn(addr string, conn *trackedConn) *callConn {
	return &callConn{addr: addr, conn: conn, w: newFrameWriter(), waiting: map[uint64]*pendingCall{}}
}

func (c *callConn) isBroken() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.broken != nil
}

func (c *callConn) call(ctx context.Context, op byte, body []byte) ([]byte, error) {
	p, _ := pendingCalls.Get().(*pendingCall) // the pool holds nothing else
	id, err := c.send(ctx, p, op, body)
	if err != nil {
		pendingCalls.Put(p)
		if errors.Is(err, errBroken) {
			return nil, err
		}
		return nil, notSent(c.addr, err)
	}
	var r callResult
	select {
	case r = <-p.result:
	case <-ctx.Done():
		if c.forget(id) {
			pendingCalls.Put(p)
			if errors.Is(ctx.Err(), context.Canceled) {
				// The deadline ends it over there too; a change of mind has
				// to be sent.
				_, _ = c.w.queue(frame{kind: frameCancel, id: id})
			}
			return nil, unclear(c.addr, ctx.Err())
		}
		r = <-p.result // taken out by the reader: it is coming
	}
	pendingCalls.Put(p)
	return c.outcome(r)
}

// send registers the call before it is queued, since the reply may be faster.
func (c *callConn) send(ctx context.Context, p *pendingCall, op byte, body []byte) (uint64, error) {
	var budget time.Duration
	if deadline, ok := ctx.Deadline(); ok {
		if budget = time.Until(deadline); budget <= 0 {
			return 0, context.DeadlineExceeded
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken != nil {
		return 0, errBroken
	}
	id := c.next + 1
	number, err := c.w.queue(frame{kind: frameRequest, op: op, id: id, budget: budget, body: body})
	switch {
	case errors.Is(err, errBacklog):
		return 0, err
	case err != nil:
		return 0, errBroken
	}
	c.next, p.number = id, number
	c.waiting[id] = p
	return id, nil
}

func (c *callConn) outcome(r callResult) ([]byte, error) {
	switch {
	case r.err != nil:
		return nil, r.err
	case r.frame.kind == frameReply:
		return r.frame.body, nil
	case r.frame.kind == frameRefused:
		return nil, notSent(c.addr, refusal(string(r.frame.body)))
	default:
		return nil, unclear(c.addr, fmt.Errorf("failed: %s", r.frame.body))
	}
}

// refusal is the error of a call that was refused for reason.
func refusal(reason string) error {
	if strings.HasPrefix(reason, overloaded) || strings.HasPrefix(reason, fullOfClients) {
		return fmt.Errorf("%w: %s", ErrLimit, reason)
	}
	return fmt.Errorf("refused: %s", reason)
}

// forget takes a call out; false means that its result is there or coming.
func (c *callConn) forget(id uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, waiting := c.waiting[id]
	delete(c.waiting, id)
	return waiting
}

func (c *callConn) readReplies() {
	r := bufio.NewReaderSize(c.conn, callReadBuffer)
	for {
		f, err := readFrame(r)
		if err == nil && f.kind == framePush && c.push(f) {
			continue
		}
		if err == nil && (f.kind < frameReply || f.kind > frameFailed) {
			err = fmt.Errorf("%w: kind %d from a callee", errBadFrame, f.kind)
		}
		if err != nil {
			c.fail(err)
			return
		}
		c.mu.Lock()
		p, s := c.waiting[f.id], c.streams[f.id]
		delete(c.waiting, f.id)
		delete(c.streams, f.id)
		c.mu.Unlock()
		if s != nil {
			s.end(fmt.Errorf("the node ended the stream: %s", f.body))
		}
		if p != nil {
			p.result <- callResult{frame: f}
		}
	}
}

func (c *callConn) write() {
	if err := c.w.run(c.conn); err != nil {
		c.fail(err)
	}
}

// errDropped ends a connection that was given up.
var errDropped = errors.New("the connection was given up")

// failAfter breaks the connection after d, unless it breaks before.
func (c *callConn) failAfter(d time.Duration) {
	time.AfterFunc(d, func() { c.fail(errDropped) })
}

// fail breaks the connection: a request that was never handed to the socket was not
// sent, everything else is unclear.
func (c *callConn) fail(err error) {
	c.mu.Lock()
	if c.broken != nil {
		c.mu.Unlock()
		return
	}
	c.broken = err
	taken := c.w.fail(err)
	waiting, streams := c.waiting, c.streams
	c.waiting, c.streams = map[uint64]*pendingCall{}, nil
	c.mu.Unlock()
	c.conn.Close()
	for _, s := range streams {
		s.end(err)
	}
	for _, p := range waiting {
		if p.number > taken {
			p.result <- callResult{err: notSent(c.addr, err)}
			continue
		}
		p.result <- callResult{err: unclear(c.addr, err)}
	}
}
