package zookeeper

import (
	"context"
	"errors"
	"slices"

	"github.com/go-zookeeper/zk"

	"github.com/holdfast-dcs/holdfast/internal/backend"
)

// sign gives the credentials once per session. The library gives them again by
// itself after each reconnect. ZooKeeper accepts wrong credentials without an
// error, so sign reads the root with them.
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

// signAgain gives the credentials that were not given yet, for example because
// a file has changed. It reports whether the session has more credentials than
// given, so that a request which was denied with those may succeed. Another call
// that was denied may have given them already.
func (s *session) signAgain(ctx context.Context, given int64) bool {
	err := s.signWith(ctx, func() error {
		_, err := s.give()
		return err
	})
	return err == nil && s.gave.Load() > given
}

// signWith runs f, which gives credentials, and excludes other calls that do
// so.
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
// were any. The caller must hold signing.
func (s *session) give() (given bool, err error) {
	for _, a := range s.b.c.auth.current() {
		if slices.Contains(s.given, a) {
			continue
		}
		if err := s.conn.AddAuth(a.scheme, []byte(a.value)); err != nil {
			return given, err
		}
		s.given, given = append(s.given, a), true
		s.gave.Add(1)
	}
	return given, nil
}

// call makes one request in a session at one server. The library does not
// support contexts, so call stops waiting at ctx's deadline. At that point it
// closes the connection if the server has owed an answer for
// RetryTimeout/silentShare and sent none. It keeps the connection to a server
// that is only slow, because a new connection would be more work for that
// server.
func call[T any](ctx context.Context, s *session, addr string, r request, f func(c *zk.Conn) (T, error)) (T, *trackedConn, error) {
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
	s.b.bg.run(func() {
		v, err := permitted(ctx, s, func() (T, error) { return send(ctx, s, r, f) })
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

// permitted gives the credentials and calls send. If that is denied, and there are newer
// credentials, it gives them and calls send again, which is safe because a denied request
// changed nothing.
func permitted[T any](ctx context.Context, s *session, send func() (T, error)) (v T, err error) {
	for again := false; ; again = true {
		given := s.gave.Load() // or more, when the request is sent
		if err = s.sign(ctx); err == nil {
			given = s.gave.Load()
			v, err = send()
		}
		if again || !errors.Is(err, zk.ErrNoAuth) || !s.b.c.auth.any() || !s.signAgain(ctx, given) {
			return v, err
		}
		s.b.newer.announce()
	}
}

// send makes one request.
func send[T any](ctx context.Context, s *session, r request, f func(c *zk.Conn) (T, error)) (v T, err error) {
	answer := make(chan T, 1) // the first one counts
	err = s.b.hooks.intercept(ctx, r, s, func(c *zk.Conn) error {
		v, err := f(c)
		select {
		case answer <- v:
		default:
		}
		return err
	})
	select {
	case v = <-answer:
	default:
	}
	return v, err
}

// silentShare is the divisor of a budget after which a silent connection is
// closed.
const silentShare = 3

// proven reads data that is not older than the call, in a session that is
// connected. It reads behind a barrier, but does not wait for the barrier's
// answer first. ZooKeeper answers the requests on one connection in their
// order, so it is enough that the barrier was sent before the read. The barrier
// of another call serves, too.
func proven[T any](s *session, c *zk.Conn, read func() (T, error)) (T, error) {
	var zero T
	s.mu.Lock()
	w := s.live
	s.mu.Unlock()
	if w == nil {
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
	if err == nil && !s.on(w) { // the read may have gone to another server
		return zero, &backend.Failure{Endpoint: w.addr, Err: errBroken}
	}
	return v, err
}
