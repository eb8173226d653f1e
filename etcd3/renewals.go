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

// renewals is the stream of renewals to one member. It stays open, because a separate
// stream for each renewal costs five times as much. No lock is held while a call waits
// for the network, so that each renewal ends with its own context.
type renewals struct {
	c       *conn
	opening backend.Flight[*renewStream]
	queued  atomic.Bool // the opening waits for a stream, not for a login

	mu sync.Mutex
	s  *renewStream // nil: none
}

// renewStream is one stream. Answers carry no number and come in the order of the
// requests.
type renewStream struct {
	r        *renewals
	stream   pb.Lease_LeaseKeepAliveClient
	cancel   context.CancelFunc
	token    authToken         // the token of the request that opened it
	requests chan *sentRenewal // requests to write
	over     chan struct{}     // closed once the stream has ended

	mu      sync.Mutex
	waiting []*sentRenewal
	err     error // why the stream has ended
	given   bool  // given up by the client
}

// sentRenewal is one request.
type sentRenewal struct {
	s       *renewStream
	id      int64
	written chan struct{}
	answer  chan *pb.LeaseKeepAliveResponse // has room for one
}

// send sends one renewal and returns when the request was written.
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

// open returns the stream. If there is none, it opens one.
func (r *renewals) open(ctx context.Context) (*renewStream, error) {
	if s, ok := r.opened(); ok { // without the allocations of Do, in each renewal
		return s, nil
	}
	c := r.c
	return r.opening.Do(ctx, c.b.life, c.b.c.Timing.RetryTimeout, r.opened, func(ctx context.Context) (*renewStream, error) {
		token, err := c.token(ctx)
		if err != nil {
			return nil, err
		}
		life, cancel := context.WithCancel(c.b.life)
		// The opening waits for a connection, and must end with ctx.
		stop := context.AfterFunc(ctx, cancel)
		r.queued.Store(true)
		stream, err := c.lease.LeaseKeepAlive(outgoing(c.b.hooks.named(life, "Renew"), token))
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

// write sends the requests until the stream ends. It appends each to waiting first, so
// that waiting has the order of the answers.
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
				s.r.drop(s) // read gets the error of the stream
				return
			}
			close(w.written)
		}
	}
}

// read passes the answers to the waiting requests, in order, until the stream ends.
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

// drop gives up the stream s, or the current one if s is nil. The next renewal opens a
// new one, because no request is answered after one that the member does not answer.
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

// giveUp cancels the stream.
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
	errStream = errors.New("the stream of lease renewals ended")
	// errGivenUp blames no member. The renewal that gave the stream up records the
	// silence.
	errGivenUp = errors.New("the stream of lease renewals was given up by another renewal on the same stream")
	// errNewToken means that the request can be sent again with a new token.
	errNewToken = errors.New("the authentication token had expired")
)

// failure returns the reason why the stream has ended. If the token had expired,
// failure logs in again and returns an error that wraps errNewToken.
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

// wait waits for the answer until ctx is done or the stream has ended.
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
