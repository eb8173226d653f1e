package consul

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
)

// A use is the purpose for which a request occupies a connection. HTTP/1.1 serves one
// request at a time on each.
type use uint8

// The uses, the most urgent first.
const (
	renewing use = iota
	ordinary
	uses
)

// connShare divides the connections to one agent among requests. Renewals may use
// those of other calls, and renewalConns more, because eight slow Commits would
// otherwise hold them up. An agent at its limit on connections from one address
// (limits.http_max_conns_per_client) refuses further ones. The requests then share the
// open ones, with precedence for renewals, and one more connection is tried from time
// to time.
type connShare struct {
	addr    string
	queries bool // for blocking queries, which take up to a minute and do not wait at the limit

	mu      sync.Mutex
	open    int       // connections on which the agent has answered
	unheard int       // connections on which the agent has not answered yet
	ending  int       // open connections that are about to be closed with their request
	used    [uses]int // connections in use
	waiting [uses][]*turn

	limited bool // the agent has refused a connection
	pause   time.Duration
	growAt  dcs.Instant // when the next connection may be tried
}

// A turn is a request that waits for a connection. ready receives one value.
type turn struct{ ready chan error }

// The pause before another connection is tried doubles from leastPause up to mostPause,
// or up to aloneFor while calls have no connection.
const (
	leastPause = 250 * time.Millisecond
	mostPause  = 5 * time.Second
	aloneFor   = time.Second
)

// acquire waits until a request may use a connection. The caller must release it.
func (s *connShare) acquire(ctx context.Context, u use) error {
	s.mu.Lock()
	if len(s.waiting[u]) == 0 && s.admits(u) {
		s.used[u]++
		s.mu.Unlock()
		return nil
	}
	if err := s.refusal(); err != nil {
		s.mu.Unlock()
		return err
	}
	t := &turn{make(chan error, 1)}
	s.waiting[u] = append(s.waiting[u], t)
	s.dispatch()
	s.mu.Unlock()
	select {
	case err := <-t.ready:
		return err
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.waiting[u], t); i >= 0 {
		s.waiting[u] = slices.Delete(s.waiting[u], i, i+1)
	} else if err := <-t.ready; err == nil {
		s.used[u]--
		s.dispatch()
	}
	err := errNoConn
	if s.limited {
		err = fmt.Errorf("no connection was free in time, all %d connections to the agent are in use: %w", s.open, errConnections)
	}
	return backend.OwnCause(s.addr, err)
}

// release ends the use of a connection.
func (s *connShare) release(u use) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used[u]--
	s.dispatch()
}

// size returns the maximum number of connections.
func (s *connShare) size() int {
	if s.queries {
		return mostConns
	}
	return mostConns + renewalConns
}

// most returns the number of connections that may be in use. Under s.mu.
func (s *connShare) most() int {
	switch {
	case !s.limited:
		return s.size()
	case s.growAt.Elapsed() < 0:
		return s.open
	}
	return min(s.open+1, s.size())
}

// admits reports whether a request may use a connection now. At the limit one
// connection is reserved for renewals if there are at least two. While a further
// connection is tried, none is reserved, because the attempt needs all open ones in
// use. Under s.mu.
func (s *connShare) admits(u use) bool {
	most := s.most()
	switch {
	case s.used[renewing]+s.used[ordinary] >= most:
		return false
	case u == renewing || s.queries:
		return true
	case s.used[ordinary] >= mostConns:
		return false
	}
	return !s.limited || most != s.open || s.used[ordinary] < max(1, most-1)
}

// refusal returns the error of a request that is not admitted and must not wait, or nil.
// Under s.mu.
func (s *connShare) refusal() error {
	pause := -s.growAt.Elapsed()
	if s.limited && (s.queries || s.open+s.unheard == 0 && pause > 0) {
		return &backend.Failure{Endpoint: s.addr, Err: errConnections, Refused: true, Busy: max(pause, 1)}
	}
	return nil
}

// dispatch gives connections to the requests that wait. Under s.mu.
func (s *connShare) dispatch() {
	for u := range uses {
		for len(s.waiting[u]) > 0 {
			var err error
			if s.admits(u) {
				s.used[u]++
			} else if err = s.refusal(); err == nil {
				break
			}
			s.waiting[u][0].ready <- err
			s.waiting[u] = s.waiting[u][1:]
		}
	}
}

// refused records that the agent refused a connection.
func (s *connShare) refused() {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.dispatch()
	if s.limited && s.growAt.Elapsed() < 0 {
		return // this one was tried together with another one
	}
	s.limited = true
	s.pause = min(max(2*s.pause, leastPause), mostPause)
	if s.open == 0 && !s.queries {
		s.pause = min(s.pause, aloneFor)
	}
	wait := s.pause/2 + rand.N(s.pause/2) //nolint:gosec // G404: jitter
	s.growAt = dcs.Now().Add(wait)
	time.AfterFunc(wait, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.dispatch()
	})
}

// dialled records a new connection.
func (s *connShare) dialled() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unheard++
}

// heard records the first event on a connection. answered reports an answer. Otherwise
// the connection was refused or has ended.
func (s *connShare) heard(answered bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unheard--
	if answered {
		s.open++
		s.pause = 0
		s.limited = s.limited && s.open < s.size()
	}
	s.dispatch()
}

// closed records the end of a connection on which the agent had answered. The agent can
// accept another one now.
func (s *connShare) closed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open--
	s.growAt = dcs.Now()
	if s.open == 0 { // for example because the agent was restarted
		s.limited, s.pause = false, 0
	}
	s.dispatch()
}

// keeps reports whether an open connection must outlive a request that was given up,
// because the agent might not accept another one. HTTP/1.1 can abandon a request
// only by closing its connection. If it returns false, the caller must end the
// request and call ended.
func (s *connShare) keeps() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.queries && (s.limited || s.open-s.ending <= 1) {
		return true
	}
	s.ending++
	return false
}

// ended records the end of a request for which keeps has returned false.
func (s *connShare) ended() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ending--
}

// isServed reports whether the agent serves a connection of the share.
func (s *connShare) isServed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open > 0
}
