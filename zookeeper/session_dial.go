package zookeeper

import (
	"context"
	"net"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backoff"
)

// Init implements [zk.HostProvider].
func (*session) Init([]string) error { return nil }

// Len implements [zk.HostProvider].
func (*session) Len() int { return 1 }

// Connected implements [zk.HostProvider].
func (*session) Connected() {}

// Next implements [zk.HostProvider]. It returns no address because dial chooses
// the server. Once the session is over, Next makes the library shut down: it
// returns true, which means that all servers were tried. Only then does the
// library check whether it was closed, and fail the queued requests. Next first
// waits until quit has queued the library's own Close request, which otherwise
// takes a second.
func (s *session) Next() (string, bool) {
	if s.ended() == nil {
		return "", false
	}
	go s.quit()
	backoff.Sleep(context.Background(), farewell)
	return "", true
}

// quit ends the library's use of the session.
func (s *session) quit() {
	s.conn.Close()
	s.left.Do(func() { close(s.gone) })
}

// dial is the library's dialer. It waits until a call wants the session at a
// server.
func (s *session) dial(string, string, time.Duration) (net.Conn, error) {
	ctx, addr, err := s.wanted()
	if err != nil {
		return nil, err
	}
	var c net.Conn
	if err = s.b.pool.AwaitDial(ctx); err == nil {
		s.mu.Lock()
		s.begun = dcs.Now()
		s.mu.Unlock()
		c, err = s.b.connect(ctx, addr)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && (ctx.Err() != nil || s.over != nil) {
		c.Close()
		err = errElsewhere
	}
	if err == nil {
		deadline := time.Now().Add(s.b.c.Timing.RetryTimeout / 2) //nolint:forbidigo // the net package compares its monotonic reading
		s.next, err = newTrackedConn(c, addr, s.o.quiet, deadline)
		s.next.most = s.b.c.MaxBuffer
	}
	if err != nil {
		s.missed(addr, err)
		return nil, err
	}
	return s.next, nil
}

// wanted waits until a call wants the session at a server, or the session is
// over.
func (s *session) wanted() (context.Context, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if s.over != nil {
			return nil, "", s.over
		}
		if s.want == "" && s.o.kept {
			misses := s.misses
			s.mu.Unlock()
			afterMiss.Wait(s.b.life, misses)
			best := s.b.pool.Endpoints()[0]
			s.mu.Lock()
			if s.want == "" {
				s.want = best
			}
			continue
		}
		if s.want != "" {
			ctx, stop := context.WithTimeout(s.b.life, s.b.c.Timing.RetryTimeout/2)
			s.dialing, s.want, s.stop, s.begun = s.want, "", stop, dcs.Instant{}
			return ctx, s.dialing, nil
		}
		change := s.change
		s.mu.Unlock()
		<-change
		s.mu.Lock()
	}
}

// farewell is how long the library may take to queue the end of a session.
const farewell = 5 * time.Millisecond

// afterMiss is the back-off of a session that is kept connected.
var afterMiss = backoff.Exponential{First: 20 * time.Millisecond, Most: time.Second}
