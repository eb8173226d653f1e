package etcd3

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// renewals is the stream of renewals to one member. It stays open: a stream of
// its own for each renewal costs five times as much.
type renewals struct {
	c *conn

	mu sync.Mutex
	s  *renewStream // nil: none
}

// renewStream is one stream. Answers carry no number; they come in the order
// of the requests.
type renewStream struct {
	r      *renewals
	stream pb.Lease_LeaseKeepAliveClient
	cancel context.CancelFunc

	send    sync.Mutex // keeps the order of sending and waiting the same
	mu      sync.Mutex
	waiting []*sentRenewal
	err     error // of the stream, once it has ended
}

// sentRenewal is one request that was sent.
type sentRenewal struct {
	s      *renewStream
	answer chan *pb.LeaseKeepAliveResponse // closed when the stream ends
}

// send asks for one renewal.
func (r *renewals) send(ctx context.Context, id int64) (*sentRenewal, error) {
	s, err := r.open(ctx)
	if err != nil {
		return nil, err
	}
	sent := &sentRenewal{s: s, answer: make(chan *pb.LeaseKeepAliveResponse, 1)}
	s.send.Lock()
	defer s.send.Unlock()
	s.mu.Lock()
	if err := s.err; err != nil {
		s.mu.Unlock()
		return nil, r.c.failed(ctx, err, false)
	}
	s.waiting = append(s.waiting, sent)
	s.mu.Unlock()
	if err := s.stream.Send(&pb.LeaseKeepAliveRequest{ID: id}); err != nil {
		r.drop(s)
		// The stream's own error comes from its reader.
		return sent, nil //nolint:nilerr // wait returns it
	}
	return sent, nil
}

// open returns the stream, a new one if need be.
func (r *renewals) open(ctx context.Context) (*renewStream, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.s != nil {
		return r.s, nil
	}
	token, err := r.c.login(ctx, "")
	if err != nil {
		return nil, r.c.failed(ctx, err, false)
	}
	life, cancel := context.WithCancel(r.c.b.life)
	// Opening waits for a connection: that must end with the call.
	stop := context.AfterFunc(ctx, cancel)
	stream, err := r.c.lease.LeaseKeepAlive(r.c.outgoing(r.c.b.c.name(life, "Renew"), token))
	if !stop() || err != nil {
		cancel()
		return nil, r.c.failed(ctx, cmp.Or(err, context.Cause(ctx)), false)
	}
	s := &renewStream{r: r, stream: stream, cancel: cancel}
	r.s = s
	go s.read()
	return s, nil
}

// read hands the answers out, in order, until the stream ends.
func (s *renewStream) read() {
	for {
		answer, err := s.stream.Recv()
		s.mu.Lock()
		if err != nil {
			s.err = err
			for _, w := range s.waiting {
				close(w.answer)
			}
			s.waiting = nil
			s.mu.Unlock()
			s.r.drop(s)
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
	s.cancel()
	if r.s == s {
		r.s = nil
	}
}

var errStream = errors.New("the stream of renewals ended")

// wait returns the answer.
func (w *sentRenewal) wait(ctx context.Context) (*pb.LeaseKeepAliveResponse, error) {
	select {
	case a, ok := <-w.answer:
		if ok {
			return a, nil
		}
		w.s.mu.Lock()
		err := cmp.Or(w.s.err, errStream)
		w.s.mu.Unlock()
		c := w.s.r.c
		if staleToken(err) {
			if _, lerr := c.login(ctx, c.current()); lerr != nil {
				err = lerr
			}
		}
		return nil, c.failed(ctx, err, true)
	case <-ctx.Done():
		w.s.r.drop(w.s)
		return nil, context.Cause(ctx)
	}
}

func (c *conn) current() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.token
}
