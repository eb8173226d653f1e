package zookeeper

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
)

// session is a ZooKeeper session that the client library manages. It is
// connected only where a call wants it. session is the library's dialer and
// host provider. So it decides when and where the library connects, and
// prevents the library from connecting once the session is over. Otherwise the
// library would make another session under the same name by itself, and send
// its queued requests in that.
type session struct {
	b    *Backend
	o    sessionOptions
	conn *zk.Conn

	mu      sync.Mutex
	want    string             // where to connect next
	dialing string             // where a connection is being made
	begun   dcs.Instant        // since when; zero while the limit on dials delays it
	stop    context.CancelFunc // cancels dialing
	turn    int                // counts the changes of want
	next    *trackedConn       // the connection on which the session is being requested
	live    *trackedConn       // the connection that the session is on
	last    granted
	seen    dcs.Revision
	fault   error         // why there is no connection to the server that was wanted last
	misses  int           // failed attempts in a row
	over    error         // why the session is over; it connects no more
	done    chan struct{} // closed when over is set
	change  chan struct{} // closed when any of these changes

	left sync.Once
	gone chan struct{} // closed when the library has finished

	signing chan struct{} // held while a call gives the credentials
	signed  bool
	given   []authInfo   // under signing
	gave    atomic.Int64 // len(given)
}

type sessionOptions struct {
	ttl time.Duration
	// once means that the session is over with its first connection.
	once bool
	// quiet means that only calls keep the session alive.
	quiet bool
	// kept means that the session is always connected, to the server that the
	// Pool prefers.
	kept bool
	// over is called once when the session is over; it may block.
	over func()
	// event is called with the events of nodes, in the order of the answers.
	// It must not block.
	event func(zk.Event)
}

var (
	errExpired   = errors.New("ZooKeeper reports that the session is over")
	errElsewhere = errors.New("the session was moved to another server during the call")
	errBroken    = errors.New("the connection broke")
)

// newSession makes a session that is not connected yet.
func (b *Backend) newSession(o sessionOptions) (*session, error) {
	s := &session{b: b, o: o, done: make(chan struct{}), gone: make(chan struct{}), change: make(chan struct{}), signing: make(chan struct{}, 1)}
	conn, _, err := zk.Connect([]string{"chosen-by-the-dialer"}, o.ttl,
		zk.WithDialer(s.dial), zk.WithHostProvider(s), zk.WithEventCallback(s.event),
		zk.WithLogger(silent{}), zk.WithLogInfo(false), zk.WithMaxBufferSize(maxFrame), zk.WithMaxConnBufferSize(maxFrame))
	if err != nil {
		return nil, err
	}
	s.conn = conn
	return s, nil
}

// silent discards the library's log messages. Calls report the same failures
// with their endpoint.
type silent struct{}

func (silent) Printf(string, ...any) {}

// event handles the library's events, which concern its connection or nodes.
func (s *session) event(ev zk.Event) {
	if ev.Type != zk.EventSession {
		if s.o.event != nil {
			s.o.event(ev)
		}
		return
	}
	switch ev.State {
	case zk.StateHasSession:
		s.up()
	case zk.StateExpired:
		s.end(errExpired)
	case zk.StateDisconnected:
		s.down()
	}
}

func (s *session) up() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live, s.next, s.dialing, s.misses, s.fault = s.next, nil, "", 0, nil
	s.stop()
	_, s.last = s.live.grant()
	s.changed()
}

func (s *session) down() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.next; w != nil {
		s.missed(w.addr, w.why())
	}
	if w := s.live; w != nil {
		s.lose(w.why())
	}
	s.changed()
}

// lose closes the session's connection because of err. The caller must hold
// s.mu.
func (s *session) lose(err error) {
	s.fault = s.b.unreachable(s.live.addr, cmp.Or(err, errBroken))
	s.leave()
	if s.o.once && s.over == nil {
		s.finish(errBroken)
	}
}

// missed records a failed attempt to connect. The caller must hold s.mu.
func (s *session) missed(addr string, err error) {
	s.fault, s.next, s.dialing = s.b.notGranted(addr, cmp.Or(err, errBroken)), nil, ""
	s.misses++
	s.stop()
	s.changed()
}

func (s *session) changed() {
	close(s.change)
	s.change = make(chan struct{})
}

// at connects the session to one server, if necessary, and returns the
// connection. It returns when ctx ends at the latest.
func (s *session) at(ctx context.Context, addr string) (*trackedConn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over == nil && (s.live == nil || s.live.addr != addr) && s.want != addr && s.dialing != addr {
		s.turn++
		s.want, s.fault = addr, nil
		s.leave()
		s.changed()
	}
	since := dcs.Now()
	for turn := s.turn; ; {
		switch {
		case s.over != nil:
			return nil, s.over
		case s.live != nil && s.live.addr == addr:
			return s.live, nil
		case s.turn != turn:
			return nil, &backend.Failure{Endpoint: addr, Err: errElsewhere, Refused: true}
		case s.want != addr && s.dialing != addr:
			// The connection could not be made, or broke before this call saw
			// it.
			return nil, cmp.Or(s.fault, s.b.unreachable(addr, errBroken))
		}
		change := s.change
		s.mu.Unlock()
		select {
		case <-change:
		case <-ctx.Done():
		}
		s.mu.Lock()
		if ctx.Err() != nil {
			delayed := s.delayed(addr, since)
			if s.o.quiet && s.turn == turn && s.live == nil {
				s.want = "" // otherwise a later connection would keep it alive
				s.leave()
			}
			if delayed && errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return nil, backend.OwnCause(addr, endpoint.ErrDials)
			}
			return nil, &backend.Failure{Endpoint: addr, Err: ctx.Err(), Blame: true, Refused: true}
		}
	}
}

// delayed reports whether the limit on dials took most of the time since a call
// began to wait for a connection to addr. The caller must hold s.mu.
func (s *session) delayed(addr string, since dcs.Instant) bool {
	if s.dialing != addr || s.begun.IsZero() {
		return s.dialing == addr
	}
	return 2*s.begun.Elapsed() < since.Elapsed()
}

// leave closes the connection, and cancels the one that is being made. The
// caller must hold s.mu.
func (s *session) leave() {
	if s.dialing != "" {
		s.stop()
	}
	if s.next != nil {
		s.next.Close()
	}
	if s.live != nil {
		s.live.Close()
		s.seen = max(s.seen, s.live.latest())
		s.live = nil
	}
}

// cut closes a connection on which a call has waited for an answer in vain.
func (s *session) cut(w *trackedConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live == w {
		s.lose(nil)
		s.changed()
	}
	w.Close()
}

// disconnect closes the session's connection. The next call makes another one.
func (s *session) disconnect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live != nil {
		s.turn++
		s.leave()
		s.changed()
	}
}

// where returns the server that the session is connected to, or is to be
// connected to, and "" if there is none.
func (s *session) where() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live != nil {
		return s.live.addr
	}
	return cmp.Or(s.want, s.dialing)
}

// connected returns the server that the session is connected to, and "" if
// there is none.
func (s *session) connected() string {
	if w := s.connection(); w != nil {
		return w.addr
	}
	return ""
}

// connection returns the session's connection, and nil if there is none.
func (s *session) connection() *trackedConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.live
}

// on reports whether the session is still connected by w.
func (s *session) on(w *trackedConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.live == w
}

// ended returns the reason why the session is over, and nil while it is not.
func (s *session) ended() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over
}

// identity returns the data that resumes the session, and the largest zxid that
// was seen in it.
func (s *session) identity() (granted, dcs.Revision) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live != nil {
		s.seen = max(s.seen, s.live.latest())
	}
	return s.last, s.seen
}

// end ends the use of a session without notifying ZooKeeper. See
// [session.goodbye].
func (s *session) end(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over == nil {
		s.finish(why)
	}
}

// finish is like end, but the caller must hold s.mu.
func (s *session) finish(why error) {
	s.over = why
	close(s.done)
	s.leave()
	s.changed()
	s.b.bg.run(func() {
		<-s.gone
		if s.o.over != nil {
			s.o.over()
		}
	})
}

// goodbye ends a session that nothing depends on. It also ends the session at
// ZooKeeper if that answers within patience.
func (s *session) goodbye() {
	s.mu.Lock()
	live := s.live
	s.mu.Unlock()
	if live == nil {
		s.end(dcs.ErrClosed)
		return
	}
	s.b.bg.run(func() {
		go s.quit()
		t := time.NewTimer(patience)
		defer t.Stop()
		select {
		case <-s.gone:
		case <-t.C:
		}
		s.end(dcs.ErrClosed)
	})
}

// patience is how long goodbye waits for ZooKeeper.
const patience = 250 * time.Millisecond
