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

// A result is the response or the error of a request.
type result struct {
	resp *http.Response
	err  error
}

// send sends r on a connection that was acquired for it. The connection is released when
// the body of the response is closed.
func (t *sharing) send(r *http.Request, u use) (*http.Response, error) {
	ctx := r.Context()
	inner, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	end := sync.OnceFunc(func() { cancel(nil); t.share.release(u) })
	p, ok := ctx.Value(progressKey{}).(*progress)
	if !ok {
		p = &progress{}
		inner = p.traced(inner)
	}
	answer := make(chan result, 1)
	go func() {
		resp, err := t.http.RoundTrip(r.WithContext(inner))
		answer <- result{resp, err}
	}()
	var got result
	select {
	case got = <-answer:
	case <-ctx.Done():
		if p.on.Load().isOpen() {
			if t.share.keeps() {
				go t.abandon(answer, end)
				return nil, context.Cause(ctx)
			}
			defer t.share.ended()
		}
		cancel(context.Cause(ctx))
		got = <-answer
	}
	if got.err != nil {
		end()
		return nil, got.err
	}
	stop := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	got.resp.Body = &sharedBody{got.resp.Body, func() { stop(); end() }}
	return got.resp, nil
}

// abandon waits for the answer to a request whose caller has returned, so that the
// connection can be used again.
func (t *sharing) abandon(answer chan result, end func()) {
	defer end()
	limit := time.AfterFunc(t.budget, end)
	defer limit.Stop()
	if got := <-answer; got.err == nil {
		_, _ = io.Copy(io.Discard, got.resp.Body) // if that fails, the connection is closed
		_ = got.resp.Body.Close()
	}
}

// A sharedBody is the body of a response. Its Close releases the connection.
type sharedBody struct {
	io.ReadCloser
	end func()
}

func (b *sharedBody) Close() error {
	err := b.ReadCloser.Close()
	b.end()
	return err
}
