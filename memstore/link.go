package memstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/attempt"
)

var (
	errDown     = errors.New("connection refused")
	errBroken   = errors.New("connection reset")
	errReadOnly = &dcs.Error{Kind: dcs.ErrUnavailable, Err: errors.New("the store is read-only")}
)

// reply is the result of a request, or its error.
type reply[T any] struct {
	v   T
	err error
}

// notSent marks err as definite: nothing was written. It keeps err's kind.
func notSent(err error) error { return fmt.Errorf("%w: %w", attempt.ErrNotSent, err) }

// send sends one copy of a request to the server and returns its answer. The server runs
// do under its lock. The injector may make it run do late, twice or never. An error that
// wraps attempt.ErrNotSent reports that do was not run and never will be.
func send[T any](ctx context.Context, b *Backend, c Call, do func(*root) T) (T, error) {
	var none T
	s := b.s
	select {
	case <-b.done:
		return none, notSent(dcs.ErrClosed)
	default:
	}
	if err := ctx.Err(); err != nil {
		return none, notSent(context.Cause(ctx))
	}
	s.mu.Lock()
	s.count[countKey{client: c.Client, endpoint: c.Endpoint, op: c.Op}]++
	p := s.plan(c)
	if p == nil && s.o.Latency == 0 { // the usual case, without faults
		defer s.mu.Unlock()
		if s.refuses(c) {
			return none, notSent(errReadOnly)
		}
		dcs.AnsweredBy(ctx, c.Endpoint)
		return do(s.root(c.Root)), nil
	}
	s.mu.Unlock()
	if p == nil {
		p = &plan{}
	}
	if p.refuse != nil {
		return none, notSent(p.refuse)
	}
	back := make(chan reply[T], 1)
	dispatch(s, c, p, back, do)
	select {
	case r := <-back:
		if r.err == nil {
			dcs.AnsweredBy(ctx, c.Endpoint)
		}
		return r.v, r.err
	case <-ctx.Done():
		return none, context.Cause(ctx)
	case <-b.done:
		return none, dcs.ErrClosed
	}
}

// refuses reports whether the store refuses c. Called under s.mu.
func (s *Server) refuses(c Call) bool { return s.faults.readOnly && c.Op&OpWrites != 0 }

// dispatch sends a copy on its way.
func dispatch[T any](s *Server, c Call, p *plan, back chan reply[T], do func(*root) T) {
	if p.silent {
		if p.reset {
			answer(back, reply[T]{err: errBroken})
		}
		return
	}
	arrive := func() { arrive(s, c, p, back, do) }
	for _, d := range p.again {
		s.after(s.o.Latency+p.delay+d, func() { execute(s, c, do) })
	}
	if p.hold != nil {
		s.hold(p.hold, arrive)
		return
	}
	s.after(s.o.Latency+p.delay, arrive)
}

// arrive handles a copy that has reached the server.
func arrive[T any](s *Server, c Call, p *plan, back chan reply[T], do func(*root) T) {
	r := reply[T]{err: p.fail}
	if p.fail == nil {
		var done bool
		if r, done = execute(s, c, do); !done {
			return // the server is down and sends no answer
		}
		if p.twice {
			r, _ = execute(s, c, do)
		}
	}
	if p.lost {
		if p.reset {
			answer(back, reply[T]{err: errBroken})
		}
		return
	}
	if p.holdReply != nil {
		s.hold(p.holdReply, func() { answer(back, r) })
		return
	}
	s.after(s.o.Latency+p.late, func() { answer(back, r) })
}

func execute[T any](s *Server, c Call, do func(*root) T) (reply[T], bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.faults.down:
		return reply[T]{}, false
	case s.refuses(c):
		return reply[T]{err: notSent(errReadOnly)}, true
	}
	return reply[T]{v: do(s.root(c.Root))}, true
}

// answer passes r to the client, unless the client has its answer or has given up.
func answer[T any](back chan reply[T], r reply[T]) {
	select {
	case back <- r:
	default:
	}
}

func (s *Server) hold(i *Injection, f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i.held = append(i.held, f)
}

// after runs f when d has passed. If d is 0, it runs f before it returns.
func (s *Server) after(d time.Duration, f func()) {
	if d <= 0 {
		f()
		return
	}
	time.AfterFunc(d, f)
}
