package etcd3

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-dcs/holdfast/internal/backend"
)

// renewals is the stream of renewals to one member. It stays open: a stream of
// its own for each renewal costs five times as much. No lock is held while
// anything waits for the network, so that each renewal ends with its own context.
type renewals struct {
	c       *conn
	opening backend.Flight[*renewStream]
	queued  atomic.Bool // a stream is waited for, not a login

	mu sync.Mutex
	s  *renewStream // nil: none
}

// renewStream is one stream. Answers carry no number; they come in the order
// of the requests.
type renewStream struct {
	r        *renewals
	stream   pb.Lease_LeaseKeepAliveClient
	cancel   context.CancelFunc
	token    authToken         // that it was opened with
	requests chan *sentRenewal // to write
	over     chan struct{}     // closed once the stream has ended

	mu      sync.Mutex
	waiting []*sentRenewal
	err     error // why the stream has ended
	given   bool  // given up by us
}

// sentRenewal is one request.
type sentRenewal struct {
	s       *renewStream
	id      int64
	written chan struct{}
	answer  chan *pb.LeaseKeepAliveResponse // has room for one
}

// send asks for one renewal and returns when the request was written.
func (r *renewals) send(ctx context.Context, id int64) (*sentRenewal, error) {
	s, err := r.open(ctx)
	if err != nil {
		if r.queued.Load() {
			return nil, r.c.notSent(ctx, err)
		}
		return nil, r.c.failed(ctx, err, false)
	}
	sent := &sentRenewal{s: s, id: id, written: make(chan struct{}), answer: make(chan *pb.LeaseKeepAliveResponse, 1)}
	select {
	case s.requests <- sent:
	case <-s.over:
		return nil, s.failure(ctx)
	case <-ctx.Done():
		return nil, s.abandon(ctx)
	}
	select {
	case <-sent.written:
		return sent, nil
	case <-s.over:
		return nil, s.failure(ctx)
	case <-ctx.Done():
		return nil, s.abandon(ctx)
	}
}

// open returns the stream, a new one if need be.
func (r *renewals) open(ctx context.Context) (*renewStream, error) {
	c := r.c
	return r.opening.Do(ctx, c.b.life, c.b.c.Timing.RetryTimeout, r.opened, func(ctx context.Context) (*renewStream, error) {
		token, err := c.token(ctx)
		if err != nil {
			return nil, err
		}
		life, cancel := context.WithCancel(c.b.life)
		// Opening waits for a connection.
		stop := context.AfterFunc(ctx, cancel)
		r.queued.Store(true)
		stream, err := c.lease.LeaseKeepAlive(outgoing(c.b.c.name(life, "Renew"), token))
		r.queued.Store(false)
		if !stop() || err != nil {
			cancel()
			return nil, cmp.Or(err, context.Cause(ctx))
		}
		s := &renewStream{r: r, stream: stream, cancel: cancel, token: token, requests: make(chan *sentRenewal), over: make(chan struct{})}
		r.mu.Lock()
		r.s = s
		r.mu.Unlock()
		go s.write()
		go s.read()
		return s, nil
	})
}

func (r *renewals) opened() (*renewStream, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.s, r.s != nil
}

// write sends the requests, in the order in which their answers are waited for,
// until the stream ends.
func (s *renewStream) write() {
	for {
		select {
		case <-s.over:
			return
		case w := <-s.requests:
			s.mu.Lock()
			s.waiting = append(s.waiting, w)
			s.mu.Unlock()
			if s.stream.Send(&pb.LeaseKeepAliveRequest{ID: w.id}) != nil {
				s.r.drop(s) // the reader gets the stream's own error
				return
			}
			close(w.written)
		}
	}
}

// read hands the answers out, in order, until the stream ends.
func (s *renewStream) read() {
	for {
		answer, err := s.stream.Recv()
		s.mu.Lock()
		if err != nil {
			s.err = err
			s.mu.Unlock()
			s.r.drop(s)
			close(s.over)
			return
		}
		if len(s.waiting) > 0 {
			s.waiting[0].answer <- answer
			s.waiting = slices.Delete(s.waiting, 0, 1)
		}
		s.mu.Unlock()
	}
}

// drop gives a stream up (nil: whichever there is). The next renewal opens a
// new one: behind a request that a member does not answer, none is.
func (r *renewals) drop(s *renewStream) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s == nil {
		s = r.s
	}
	if s == nil {
		return
	}
	s.giveUp()
	if r.s == s {
		r.s = nil
	}
}

// giveUp ends the stream on our side.
func (s *renewStream) giveUp() {
	s.mu.Lock()
	s.given = s.given || s.err == nil
	s.mu.Unlock()
	s.cancel()
}

// abandon gives the stream up because ctx has ended.
func (s *renewStream) abandon(ctx context.Context) error {
	s.r.drop(s)
	return context.Cause(ctx)
}

var (
	errStream = errors.New("the stream of renewals ended")
	// errGivenUp is nobody's fault: the renewal that gave the stream up says whose
	// silence it was.
	errGivenUp = errors.New("the stream of renewals was given up by another renewal on it")
	// errNewToken says that the request can be sent again, with a new token.
	errNewToken = errors.New("the token had expired")
)

// failure says why the stream has ended. If its token had expired, it fetches a
// new one and returns an errNewToken.
func (s *renewStream) failure(ctx context.Context) error {
	s.mu.Lock()
	err, given := cmp.Or(s.err, errStream), s.given
	s.mu.Unlock()
	c := s.r.c
	if given && status.Code(err) == codes.Canceled && ctx.Err() == nil && c.b.life.Err() == nil {
		return &backend.Failure{Endpoint: c.addr, Err: errGivenUp, Local: true}
	}
	failed := c.failed(ctx, err, true)
	if !c.staleToken(err) || ctx.Err() != nil {
		return failed
	}
	if _, err := c.login(ctx, s.token); err != nil {
		return c.failed(ctx, err, false)
	}
	return fmt.Errorf("%w: %w", errNewToken, failed)
}

// wait returns the answer.
func (w *sentRenewal) wait(ctx context.Context) (*pb.LeaseKeepAliveResponse, error) {
	select {
	case a := <-w.answer:
		return a, nil
	case <-w.s.over:
	case <-ctx.Done():
		return nil, w.s.abandon(ctx)
	}
	select {
	case a := <-w.answer:
		return a, nil
	default:
		return nil, w.s.failure(ctx)
	}
}
