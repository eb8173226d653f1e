package zookeeper

import (
	"cmp"
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/backoff"
)

// session is one of ZooKeeper's sessions in the client library's hands. It is
// connected where a call wants it and not otherwise: it is the library's
// dialer and host provider, and so decides when the library connects, whereto,
// and that it never does again once the session is over. Without that the
// library would make another session under the same name by itself, and send
// what it had queued in it.
type session struct {
	b    *Backend
	o    sessionOptions
	conn *zk.Conn

	mu      sync.Mutex
	want    string             // where to connect next
	dialing string             // where it is being connected
	stop    context.CancelFunc // ends that
	turn    int                // counts the places that were wanted
	next    *wire              // on which the session is being asked for
	live    *wire              // on which it is
	last    granted
	seen    dcs.Revision
	fault   error         // why there is no connection; of the place that was wanted last
	misses  int           // tries in a row that failed
	over    error         // nothing is connected any more
	done    chan struct{} // closed then
	change  chan struct{} // closed when any of these changes

	left sync.Once
	gone chan struct{} // closed when the library's part has ended

	signing chan struct{} // held by who gives the credentials
	signed  bool
	given   []authInfo // under signing
}

type sessionOptions struct {
	ttl time.Duration
	// once: the session is over with its first connection.
	once bool
	// quiet: only calls keep it alive.
	quiet bool
	// kept: it is connected always, wherever the Pool says.
	kept bool
	// over is called when the session is, once; it may block.
	over func()
	// event is told of what happens to nodes, in the order of the answers. It
	// must not block.
	event func(zk.Event)
}

var (
	errExpired   = errors.New("ZooKeeper says that the session is over")
	errElsewhere = errors.New("the session was moved elsewhere meanwhile")
	errBroken    = errors.New("the connection broke")
)

// newSession makes a session that is nowhere yet.
func (b *Backend) newSession(o sessionOptions) (*session, error) {
	s := &session{b: b, o: o, done: make(chan struct{}), gone: make(chan struct{}), change: make(chan struct{}), signing: make(chan struct{}, 1)}
	conn, _, err := zk.Connect([]string{"wherever-the-session-is-wanted"}, o.ttl,
		zk.WithDialer(s.dial), zk.WithHostProvider(s), zk.WithEventCallback(s.event),
		zk.WithLogger(silent{}), zk.WithLogInfo(false), zk.WithMaxBufferSize(maxFrame), zk.WithMaxConnBufferSize(maxFrame))
	if err != nil {
		return nil, err
	}
	s.conn = conn
	return s, nil
}

// silent is the library's logger: what it says, calls say with their endpoint.
type silent struct{}

func (silent) Printf(string, ...any) {}

// Init implements [zk.HostProvider].
func (*session) Init([]string) error { return nil }

// Len implements [zk.HostProvider].
func (*session) Len() int { return 1 }

// Connected implements [zk.HostProvider].
func (*session) Connected() {}

// Next implements [zk.HostProvider]. The place is dial's to know. Where the
// session is over, this is where the library's end begins: it is told that it has
// tried everything, looks only then whether it was closed, and answers what is
// queued, its own Close too, which is queued meanwhile and takes a second
// otherwise.
func (s *session) Next() (string, bool) {
	if s.ended() == nil {
		return "", false
	}
	go s.quit()
	backoff.Sleep(context.Background(), farewell)
	return "", true
}

// quit ends the library's part.
func (s *session) quit() {
	s.conn.Close()
	s.left.Do(func() { close(s.gone) })
}

// dial is the library's dialer: it waits until the session is wanted somewhere.
func (s *session) dial(string, string, time.Duration) (net.Conn, error) {
	ctx, addr, err := s.wanted()
	if err != nil {
		return nil, err
	}
	c, err := s.b.dial(ctx, addr)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && (ctx.Err() != nil || s.over != nil) {
		c.Close()
		err = errElsewhere
	}
	if err == nil {
		deadline := time.Now().Add(s.b.c.Timing.RetryTimeout / 2) //nolint:forbidigo // the net package compares its monotonic reading
		s.next, err = newWire(c, addr, s.o.quiet, deadline)
		s.next.most = s.b.c.MaxBuffer
	}
	if err != nil {
		s.missed(addr, err)
		return nil, err
	}
	return s.next, nil
}

// wanted waits until the session is wanted somewhere, or over.
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
			s.dialing, s.want, s.stop = s.want, "", stop
			return ctx, s.dialing, nil
		}
		change := s.change
		s.mu.Unlock()
		<-change
		s.mu.Lock()
	}
}

// farewell is how long the library is given to queue the end of a session.
const farewell = 5 * time.Millisecond

// afterMiss is the pause of a session that is kept connected before it tries again.
var afterMiss = backoff.Exponential{First: 20 * time.Millisecond, Most: time.Second}

// event is the library's: of its connection, and of nodes.
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

// lose ends the connection that the session is on, for err. Under s.mu.
func (s *session) lose(err error) {
	s.fault = s.b.unreachable(s.live.addr, cmp.Or(err, errBroken))
	s.leave()
	if s.o.once && s.over == nil {
		s.finish(errBroken)
	}
}

// missed ends a try to connect that failed. Under s.mu.
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

// at connects the session to one server, if it is not, and returns the
// connection. It gives up when ctx ends.
func (s *session) at(ctx context.Context, addr string) (*wire, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over == nil && (s.live == nil || s.live.addr != addr) && s.want != addr && s.dialing != addr {
		s.turn++
		s.want, s.fault = addr, nil
		s.leave()
		s.changed()
	}
	for turn := s.turn; ; {
		switch {
		case s.over != nil:
			return nil, s.over
		case s.live != nil && s.live.addr == addr:
			return s.live, nil
		case s.turn != turn:
			return nil, &backend.Failure{Endpoint: addr, Err: errElsewhere, Refused: true}
		case s.want != addr && s.dialing != addr:
			// The connection was made and broke before this call saw it, or it was
			// not made.
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
			if s.o.quiet && s.turn == turn && s.live == nil {
				s.want = "" // or it would be kept alive later than was asked
				s.leave()
			}
			return nil, &backend.Failure{Endpoint: addr, Err: ctx.Err(), Blame: true, Refused: true}
		}
	}
}

// leave gives up the connection, and the one that is being made. Under s.mu.
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

// cut closes a connection on which an answer was waited for in vain.
func (s *session) cut(w *wire) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live == w {
		s.lose(nil)
		s.changed()
	}
	w.Close()
}

// where is the server that the session is at, or on its way to; "" without one.
func (s *session) where() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live != nil {
		return s.live.addr
	}
	return cmp.Or(s.want, s.dialing)
}

// connected is the server that the session is connected to; "" without one.
func (s *session) connected() string {
	if w := s.connection(); w != nil {
		return w.addr
	}
	return ""
}

// connection is the one that the session is on; nil without one.
func (s *session) connection() *wire {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.live
}

// on reports whether the session is still connected by w.
func (s *session) on(w *wire) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.live == w
}

// wireOf is the connection that the session is on, for a call through c: a test
// sends some elsewhere.
func (s *session) wireOf(c *zk.Conn) (*wire, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live == nil || c != s.conn {
		return nil, &backend.Failure{Err: errBroken, Refused: true, Blame: true}
	}
	return s.live, nil
}

// ended is why the session is over, nil while it is not.
func (s *session) ended() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over
}

// identity is what takes the session up again, and the largest zxid that was
// seen in it.
func (s *session) identity() (granted, dcs.Revision) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live != nil {
		s.seen = max(s.seen, s.live.latest())
	}
	return s.last, s.seen
}

// end ends the use of a session. ZooKeeper is not told: see [session.goodbye].
func (s *session) end(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over == nil {
		s.finish(why)
	}
}

// finish is end, under s.mu.
func (s *session) finish(why error) {
	s.over = why
	close(s.done)
	s.leave()
	s.changed()
	s.b.beside.run(func() {
		<-s.gone
		if s.o.over != nil {
			s.o.over()
		}
	})
}

// goodbye ends a session that nothing depends on, and tells ZooKeeper if that
// answers at once.
func (s *session) goodbye() {
	s.mu.Lock()
	live := s.live
	s.mu.Unlock()
	if live == nil {
		s.end(dcs.ErrClosed)
		return
	}
	s.b.beside.run(func() {
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

const patience = 250 * time.Millisecond
