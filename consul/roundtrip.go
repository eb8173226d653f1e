package consul

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// progress is the progress of a request that [call] makes.
type progress struct {
	dialled atomic.Bool
	left    atomic.Bool               // the request may have been sent
	on      atomic.Pointer[heardConn] // the connection on which it may have been sent
}

// traced returns a context of a request that records its progress in p.
func (p *progress) traced(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(context.WithValue(ctx, progressKey{}, p), &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) {
			on, _ := i.Conn.(*heardConn)
			p.on.Store(on)
			p.left.Store(true)
		},
		DNSStart:     func(httptrace.DNSStartInfo) { p.dialled.Store(true) },
		ConnectStart: func(string, string) { p.dialled.Store(true) },
	})
}

type (
	progressKey struct{}
	renewingKey struct{}
)

// sharing sends requests on a set of connections to one agent. Requests wait for their
// turn. A request that the agent refused together with a new connection is sent again on
// another connection.
type sharing struct {
	http   *http.Transport
	share  connShare
	budget time.Duration
}

func (t *sharing) RoundTrip(r *http.Request) (*http.Response, error) {
	u := ordinary
	if renews, _ := r.Context().Value(renewingKey{}).(bool); renews {
		u = renewing
	}
	for {
		if err := t.share.acquire(r.Context(), u); err != nil {
			return nil, err
		}
		resp, err := t.send(r, u)
		if err == nil || !errors.Is(err, errRefusedConn) || r.Context().Err() != nil {
			return resp, err
		}
		if r, err = again(r, err); err != nil {
			return nil, err
		}
	}
}

// RoundTrip sends a request on the connections of its kind. Blocking queries have
// separate ones, because each would occupy a connection of the calls for up to a
// minute.
func (c *conn) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.Contains(r.URL.RawQuery, "index=") {
		return c.queries.RoundTrip(r)
	}
	return c.calls.RoundTrip(r)
}

// again returns r with its body from the beginning, or the error why if the body
// cannot be read again.
func again(r *http.Request, why error) (*http.Request, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return r, nil
	}
	if r.GetBody == nil {
		return nil, why
	}
	body, err := r.GetBody()
	if err != nil {
		return nil, err
	}
	r = r.Clone(r.Context())
	r.Body = body
	return r, nil
}

// An exchange is a request and its response on a connection that was acquired for it.
// Close ends it.
type exchange struct {
	io.ReadCloser // the body of the response

	t      *sharing
	u      use
	cancel context.CancelCauseFunc
	stop   func() bool // stops the cancellation by the context of the caller
	once   sync.Once
	answer chan error // receives one value
	resp   *http.Response
}

// end cancels the request and releases the connection.
func (e *exchange) end() {
	e.once.Do(func() {
		e.cancel(nil)
		e.t.share.release(e.u)
	})
}

// Close implements [io.Closer] for the body.
func (e *exchange) Close() error {
	err := e.ReadCloser.Close()
	e.stop()
	e.end()
	return err
}

// abandon waits for the answer to a request whose caller has returned, so that the
// connection can be used again.
func (e *exchange) abandon() {
	defer e.end()
	limit := time.AfterFunc(e.t.budget, e.end)
	defer limit.Stop()
	if err := <-e.answer; err == nil {
		_, _ = io.Copy(io.Discard, e.resp.Body) // if that fails, the connection is closed
		_ = e.resp.Body.Close()
	}
}

// send sends r on a connection that was acquired for it. The connection is released when
// the body of the response is closed.
func (t *sharing) send(r *http.Request, u use) (*http.Response, error) {
	ctx := r.Context()
	inner, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	e := &exchange{t: t, u: u, cancel: cancel, answer: make(chan error, 1)}
	p, ok := ctx.Value(progressKey{}).(*progress)
	if !ok {
		p = &progress{}
		inner = p.traced(inner)
	}
	go func() {
		var err error
		e.resp, err = t.http.RoundTrip(r.WithContext(inner))
		e.answer <- err
	}()
	var err error
	select {
	case err = <-e.answer:
	case <-ctx.Done():
		if p.on.Load().isOpen() {
			if t.share.keeps() {
				go e.abandon()
				return nil, context.Cause(ctx)
			}
			defer t.share.ended()
		}
		cancel(context.Cause(ctx))
		err = <-e.answer
	}
	if err != nil {
		e.end()
		return nil, err
	}
	e.stop = context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	e.ReadCloser, e.resp.Body = e.resp.Body, e
	return e.resp, nil
}
