package zookeeper

import (
	"context"
	"errors"
	"slices"

	"github.com/go-zookeeper/zk"

	"github.com/holdfast-dcs/holdfast/internal/backend"
)

// sign gives the credentials, once: the library gives them again by itself
// whenever it has connected again. ZooKeeper takes wrong ones without a word,
// so that the root is read with them.
func (s *session) sign(ctx context.Context) error {
	if !s.b.c.auth.any() {
		return nil
	}
	return s.signWith(ctx, func() error {
		if s.signed {
			return nil
		}
		_, err := s.give()
		if err == nil {
			_, err = read(s.conn, s.b.root)
		}
		s.signed = err == nil
		return err
	})
}

// signAgain gives credentials that were not given yet, and reports whether there
// were any. It is for a session to which a right was denied.
func (s *session) signAgain(ctx context.Context) bool {
	given := false
	err := s.signWith(ctx, func() (err error) {
		given, err = s.give()
		return err
	})
	return err == nil && given
}

// signWith runs f, which gives credentials, while no other call does.
func (s *session) signWith(ctx context.Context, f func() error) error {
	select {
	case s.signing <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	done := make(chan error, 1)
	go func() { // until the library or the disk answers
		defer func() { <-s.signing }()
		done <- f()
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// give gives the credentials that were not given yet, and reports whether there
// were any. Under signing.
func (s *session) give() (given bool, err error) {
	for _, a := range s.b.c.auth.current() {
		if slices.Contains(s.given, a) {
			continue
		}
		if err := s.conn.AddAuth(a.scheme, []byte(a.value)); err != nil {
			return given, err
		}
		s.given, given = append(s.given, a), true
	}
	return given, nil
}

// request says what a call is for, to a test that stands in between.
type request struct {
	op   string
	keys []string
}

// tap is a test that stands between a call and the library: it sends when and
// where it likes.
type tap func(ctx context.Context, r request, s *session, send func(c *zk.Conn) error) error

func straight(_ context.Context, _ request, s *session, send func(c *zk.Conn) error) error {
	if s == nil {
		return send(nil)
	}
	return send(s.conn)
}

// call makes one request in a session at one server. The library knows no
// contexts: an answer that does not come by ctx's deadline is not waited for any
// longer, and a server that has answered nothing for a while costs the
// connection. Not one that is only slow: to connect anew is more work for it.
func call[T any](ctx context.Context, s *session, addr string, r request, f func(c *zk.Conn) (T, error)) (T, *wire, error) {
	var zero T
	if err := s.b.admitted(ctx, s, addr); err != nil {
		return zero, nil, err
	}
	w, err := s.at(ctx, addr)
	if err == nil && s.o.once {
		err = s.verify(ctx, w)
	}
	if err != nil {
		return zero, nil, err
	}
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	s.b.beside.run(func() {
		v, err := send(ctx, s, r, f)
		if errors.Is(err, zk.ErrNoAuth) && s.b.c.auth.any() && s.signAgain(ctx) {
			v, err = send(ctx, s, r, f) // nothing was done without the right
		}
		done <- result{v, err}
	})
	select {
	case r := <-done:
		if r.err != nil {
			return r.v, w, s.b.failed(s, addr, r.err)
		}
		s.b.ident.Answered()
		return r.v, w, nil
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.DeadlineExceeded) && w.silent() >= s.b.c.Timing.RetryTimeout/silentShare {
			s.cut(w)
		}
		return zero, w, ctx.Err()
	}
}

// send makes one request, after the credentials were given.
func send[T any](ctx context.Context, s *session, r request, f func(c *zk.Conn) (T, error)) (T, error) {
	answer := make(chan T, 2) // a test may send it twice
	err := s.sign(ctx)
	if err == nil {
		err = s.b.c.tap(ctx, r, s, func(c *zk.Conn) error {
			v, err := f(c)
			select {
			case answer <- v:
			default:
			}
			return err
		})
	}
	var v T
	select {
	case v = <-answer:
	default:
	}
	return v, err
}

// silentShare is the part of a budget after which a silent connection is given
// up.
const silentShare = 3

// proven reads what is not older than the call, in a session that is connected:
// after a barrier, but without waiting for its answer. ZooKeeper answers what is
// asked on one connection in the order of the asking, so that it is enough that
// the barrier was sent before. Another call's will do.
func proven[T any](s *session, c *zk.Conn, read func() (T, error)) (T, error) {
	var zero T
	s.mu.Lock()
	w := s.live
	s.mu.Unlock()
	if w == nil || c != s.conn { // a test sends it elsewhere
		if err := barrier(c); err != nil {
			return zero, err
		}
		return read()
	}
	sent, answered := w.nextMulti(), make(chan error, 1)
	go func() { answered <- barrier(c) }()
	select {
	case <-sent:
	case err := <-answered:
		if err != nil {
			return zero, err
		}
		answered <- nil
	}
	v, err := read()
	if failed := <-answered; failed != nil {
		return zero, failed
	}
	if err == nil && !s.on(w) { // what was asked later may have gone elsewhere
		return zero, &backend.Failure{Endpoint: w.addr, Err: errBroken}
	}
	return v, err
}
