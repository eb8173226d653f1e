package consul

import (
	"net"
	"sync"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// socketSet closes every connection with its client. net/http alone may keep one
// that was being dialled, or used, while its idle connections were closed.
type socketSet struct {
	mu     sync.Mutex
	open   map[*socket]struct{}
	closed bool
}

// socket is a connection that its set knows.
type socket struct {
	net.Conn
	of *socketSet
}

// add returns c, to be closed with the others. Once they are closed, it closes c
// and fails.
func (s *socketSet) add(c net.Conn) (net.Conn, error) {
	known := &socket{c, s}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = c.Close() // nobody has used it
		return nil, dcs.ErrClosed
	}
	if s.open == nil {
		s.open = map[*socket]struct{}{}
	}
	s.open[known] = struct{}{}
	return known, nil
}

// Close implements [net.Conn].
func (c *socket) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// close closes all connections, and each that comes later.
func (s *socketSet) close() {
	s.mu.Lock()
	s.closed = true
	open := s.open
	s.open = nil
	s.mu.Unlock()
	for c := range open {
		_ = c.Conn.Close() // there is nothing to do about a connection that does not close
	}
}
