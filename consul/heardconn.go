package consul

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// limitPage is the answer with which an agent at its limit closes a new connection
// without reading a request.
const limitPage = "HTTP/1.1 429 Too Many Requests\r\n" +
	"Content-Type: text/plain\r\n" +
	"Content-Length: 81\r\n" +
	"Connection: close\r\n\r\n" +
	textConnections

// heardConn detects whether the agent serves a new connection. net/http would report only
// a response without a request, or a failed write.
type heardConn struct {
	net.Conn
	share   *connShare
	tls     bool
	state   atomic.Int32
	decided chan struct{} // closed at the first answer, or the end
	why     error         // the reason of a refusal
}

// The states of a heardConn.
const (
	connUnheard int32 = iota
	connAnswered
	connRefused
	connEnded
)

func newHeardConn(c net.Conn, s *connShare, tls bool) *heardConn {
	s.dialled()
	return &heardConn{Conn: c, share: s, tls: tls, decided: make(chan struct{})}
}

// isOpen reports whether the agent has answered on c, and c is open. c may be nil.
func (c *heardConn) isOpen() bool { return c != nil && c.state.Load() == connAnswered }

// decide records the outcome of the first read or write. why is the reason of a refusal.
func (c *heardConn) decide(state int32, why error) error {
	if !c.state.CompareAndSwap(connUnheard, state) {
		return why
	}
	c.why = why
	if state == connRefused {
		c.share.refused()
	}
	c.share.heard(state == connAnswered)
	close(c.decided)
	return why
}

// Read implements [net.Conn].
func (c *heardConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.state.Load() != connUnheard {
		return n, err
	}
	for err == nil && n < len(p) && n < len(limitPage) && limitPage[:n] == string(p[:n]) {
		var more int
		more, err = c.Conn.Read(p[n:])
		n += more
	}
	switch {
	case bytes.HasPrefix(p[:n], []byte(limitPage)):
		return 0, c.decide(connRefused, errRefusedConn)
	case n > 0:
		_ = c.decide(connAnswered, nil)
	case c.isLimit(err):
		return 0, c.decide(connRefused, closedAtOnce(err))
	default:
		_ = c.decide(connEnded, nil)
	}
	return n, err
}

// textBadRecord is the error of an alert that cannot be decrypted. An agent sends such an
// alert if it gives up in the middle of a handshake.
const textBadRecord = "local error: tls: bad record MAC"

// isHangup reports whether the other side has closed the connection. An agent at its
// limit does so with TLS, because it has 10 ms for sending its page, and behind a
// proxy that passes on only the end of the connection.
func isHangup(err error) bool {
	return err != nil && strings.HasSuffix(err.Error(), textBadRecord) || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// isLimit reports whether err on a connection without an answer is treated as the agent's
// limit although the agent's page is missing.
func (c *heardConn) isLimit(err error) bool {
	return isHangup(err) && (c.tls || c.share.isServed())
}

func closedAtOnce(err error) error {
	return fmt.Errorf("the agent closed a new connection: %w; %w", err, errConnections)
}

// reasonWithin bounds the wait for the reason of a failed write, which the kernel has
// received already.
const reasonWithin = 100 * time.Millisecond

// Write implements [net.Conn]. The agent's page may still be unread when the reset of the
// connection makes a write fail.
func (c *heardConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err == nil || c.state.Load() == connAnswered || !isHangup(err) {
		return n, err
	}
	limit := time.NewTimer(reasonWithin)
	defer limit.Stop()
	select {
	case <-c.decided:
		return n, cmp.Or(c.why, err)
	case <-limit.C: // no goroutine reads, or there is nothing to read
	}
	if !c.isLimit(err) {
		return n, err
	}
	return n, c.decide(connRefused, closedAtOnce(err))
}

// Close implements [net.Conn].
func (c *heardConn) Close() error {
	err := c.Conn.Close()
	_ = c.decide(connEnded, nil)
	if c.state.CompareAndSwap(connAnswered, connEnded) {
		c.share.closed()
	}
	return err
}
