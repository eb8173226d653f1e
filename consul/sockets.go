package consul

import (
	"net"
	"sync"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// socketSet holds the connections of a client, so that all of them are closed with the
// client. net/http alone may keep a connection that was being dialled, or used, while its
// idle connections were closed.
type socketSet struct {
	mu     sync.Mutex
	open   map[*socket]struct{}
	closed bool
}

// A socket is a connection in a socketSet.
type socket struct {
	net.Conn
	of *socketSet
}

// add adds c to the set and returns it as a socket. If the set is closed, add closes c
// and returns ErrClosed.
func (s *socketSet) add(c net.Conn) (net.Conn, error) {
	known := &socket{c, s}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = c.Close() // it has not been used
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

// close closes all connections, and makes add close each later one.
func (s *socketSet) close() {
	s.mu.Lock()
	s.closed = true
	open := s.open
	s.open = nil
	s.mu.Unlock()
	for c := range open {
		_ = c.Conn.Close() // an error of Close has no remedy
	}
}
