package consul

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/credentials"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
)

// roundTripper is the type of a transport.
type roundTripper = http.RoundTripper

// conn is the client of one endpoint. It never repeats a request on another endpoint.
type conn struct {
	b    *Backend
	addr string
	api  *api.Client

	calls   *sharing
	queries *sharing // for blocking queries
	sockets socketSet
	asked   atomic.Bool // whether identify has been called

	mu sync.Mutex
	// proof is the time at which the latest consistent read was sent that was answered
	// through this endpoint (P2).
	proof dcs.Instant
}

// connected returns the client of addr, and creates it at the first use. It does no
// I/O.
func (b *Backend) connected(addr string) (*conn, error) {
	return b.conns.Get(addr, nil, func() (*conn, error) { return b.newConn(addr) })
}

func (b *Backend) newConn(addr string) (*conn, error) {
	if b.life.Err() != nil {
		return nil, context.Cause(b.life)
	}
	c := &conn{b: b, addr: addr}
	c.calls, c.queries = c.sharing(false), c.sharing(true)
	client, err := b.client(addr, b.hooks.transport(checked{c}))
	if err != nil {
		return nil, err
	}
	c.api = client
	return c, nil
}

// client returns a client of Consul's API for addr that sends through t.
func (b *Backend) client(addr string, t http.RoundTripper) (*api.Client, error) {
	scheme := "http"
	if b.c.tls != nil {
		scheme = "https"
	}
	if strings.HasPrefix(addr, unixScheme) {
		addr = socketHost // for a socket the API would not use the given transport
	}
	return api.NewClient(&api.Config{
		// Address is the name and not an IP address, for TLS and the Host header.
		Address: endpoint.HostPort(addr), Scheme: scheme, PathPrefix: b.c.PathPrefix, HttpClient: &http.Client{Transport: settled{t, b}, CheckRedirect: noRedirect},
		Datacenter: b.c.Datacenter, Token: unset,
		Namespace: cmp.Or(b.c.Namespace, unset), Partition: cmp.Or(b.c.Partition, unset),
	})
}

// Client returns a client of Consul's own API for one endpoint, in the form of
// [Backend.Endpoints], or for the best one if addr is empty. It is for uses that
// the contract of package dcs does not cover, such as the registration of a service.
// Its requests have the Backend's TLS, ACL token, datacenter, namespace and
// partition, and share its connections. Each is sent once, to that endpoint only. It may
// take until its context ends, but at most RetryTimeout after the endpoint was ejected.
// After Close all requests fail. Requests must not write below Config.Root.
func (b *Backend) Client(addr string) (*api.Client, error) {
	if addr == "" {
		addr = b.pool.Endpoints()[0]
	} else if !slices.Contains(b.pool.Endpoints(), addr) {
		return nil, &dcs.Error{Backend: backendName, Op: "Client", Kind: dcs.ErrInvalid, Err: fmt.Errorf("%q is not an endpoint of this store: use one of %q", addr, b.pool.Endpoints())}
	}
	if _, err := b.connected(addr); err != nil {
		return nil, &dcs.Error{Backend: backendName, Op: "Client", Kind: cmp.Or(dcs.KindOf(err), dcs.ErrInvalid), Err: err}
	}
	return b.client(addr, b.hooks.transport(current{b, addr}))
}

// current sends each request on the connections that an endpoint has at that moment.
type current struct {
	b    *Backend
	addr string
}

func (t current) RoundTrip(r *http.Request) (*http.Response, error) {
	c, err := t.b.connected(t.addr)
	if err != nil {
		return nil, err
	}
	return c.RoundTrip(r)
}

// close closes every connection to the endpoint and ends the requests in flight.
func (c *conn) close() {
	c.calls.http.CloseIdleConnections()
	c.queries.http.CloseIdleConnections()
	c.sockets.close()
}

// identify reads the id of the agent at the endpoint once, because two endpoints may be
// one agent. If the token may not read the id, it stays unknown.
func (c *conn) identify(ctx context.Context) {
	if len(c.b.pool.Endpoints()) < 2 || c.asked.Swap(true) {
		return
	}
	var self struct{ Config struct{ NodeID string } }
	if _, err := c.api.Raw().Query("/v1/agent/self", &self, (&api.QueryOptions{}).WithContext(ctx)); err == nil {
		c.b.pool.Identify(c.addr, self.Config.NodeID)
	}
}

// noRedirect prevents redirects, because the token is for the configured endpoints only.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// mostConns is the maximum number of connections of calls to an agent, and renewalConns
// that of further ones for renewals. A renewal sends two requests at the same time.
// Blocking queries have connections of their own.
const (
	mostConns    = 8
	renewalConns = 2
)

// idle is the time for which an unused connection is kept. Consul's agents keep it
// longer.
const idle = 90 * time.Second

// socketHost is the host in requests through a socket.
const socketHost = "localhost"

// sharing returns a new set of connections to the endpoint, which is still empty.
func (c *conn) sharing(queries bool) *sharing {
	s := &sharing{share: connShare{addr: c.addr, queries: queries}, budget: c.b.c.Timing.RetryTimeout}
	s.http = c.transport(&s.share)
	return s
}

// transport returns a transport to the endpoint whose connections share counts.
func (c *conn) transport(share *connShare) *http.Transport {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dialVerified(ctx, share) }
	size := share.size()
	return &http.Transport{
		// HTTP/1.1 needs a connection for each request in flight.
		MaxConnsPerHost: size, MaxIdleConnsPerHost: size, IdleConnTimeout: idle, DisableCompression: true,
		DialContext: dial, DialTLSContext: dial,
	}
}

// encrypted returns nc with TLS, in the configuration of this moment, or nc itself if TLS
// is disabled.
func (c *conn) encrypted(ctx context.Context, nc net.Conn) (net.Conn, error) {
	if c.b.c.tls == nil {
		return nc, nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.b.c.Timing.RetryTimeout)
	defer cancel()
	return credentials.Client(ctx, nc, c.b.c.tls, endpoint.HostPort(c.addr))
}

// A statusError is a non-success HTTP response.
type statusError struct {
	code       int
	body       string
	retryAfter time.Duration
}

func (e *statusError) Error() string {
	if e.body == "" {
		return fmt.Sprintf("HTTP status %d", e.code)
	}
	return e.body
}

// checked returns responses with a non-success status as errors, because the API's own
// errors do not always have the status.
type checked struct{ http.RoundTripper }

// mostBody is the maximum number of bytes kept of a response.
const mostBody = 4 << 10

func (t checked) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusNotFound, http.StatusConflict:
		return resp, nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, mostBody))
	if err != nil {
		body = nil
	}
	return nil, &statusError{resp.StatusCode, string(bytes.TrimSpace(body)), retryAfter(resp.Header.Get("Retry-After"))}
}

// retryAfter returns the duration of a Retry-After header in seconds, 65535 at most. A date
// is ignored, because it comes from the clock of another machine.
func retryAfter(value string) time.Duration {
	seconds, err := strconv.ParseUint(value, 10, 16)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

// call makes one request at an endpoint. It repeats the request while the token is
// refused and the file has another one each time.
func call[T any](ctx context.Context, c *conn, f func(ctx context.Context, token string) (T, error)) (T, error) {
	token := c.b.token.current()
	for {
		var p progress
		v, err := f(p.traced(ctx), token)
		if err == nil {
			c.b.ident.Answered()
			return v, nil
		}
		var zero T
		if forbidden(err) {
			var changed bool
			if token, changed = c.b.token.reload(ctx, token); changed {
				continue
			}
		}
		var f *backend.Failure
		if ctx.Err() != nil && !p.left.Load() && !p.dialled.Load() && !errors.As(err, &f) {
			err = backend.OwnCause(c.addr, errNoConn)
		}
		return zero, c.failed(ctx, err, p.left.Load())
	}
}

// consistent is call for a read that the quorum answers. A successful one is recorded as
// a proof from its sending on (P2).
func consistent[T any](ctx context.Context, c *conn, f func(o *api.QueryOptions) (T, error)) (T, error) {
	sent := dcs.Now()
	v, err := call(ctx, c, func(ctx context.Context, token string) (T, error) { return f(c.reading(ctx, token)) })
	if err == nil {
		c.proved(sent)
	}
	return v, err
}

// proven returns the time at which the latest answered consistent read through c was sent
// (P2).
func (c *conn) proven() dcs.Instant {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.proof
}

func (c *conn) proved(sent dcs.Instant) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.proof.IsZero() || c.proof.Before(sent) {
		c.proof = sent
	}
}

// reading returns the options of a read that the leader answers after it has verified its
// leadership with the quorum.
func (c *conn) reading(ctx context.Context, token string) *api.QueryOptions {
	return (&api.QueryOptions{RequireConsistent: true, Token: token}).WithContext(ctx)
}

func writing(ctx context.Context, token string) *api.WriteOptions {
	return (&api.WriteOptions{Token: token}).WithContext(ctx)
}
