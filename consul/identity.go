package consul

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
)

// identityKey holds the identity of the store of the tree, with the datacenter in which
// it was created. The first client that writes creates it. It is read on each new
// connection, so that no request goes to the keys of another datacenter, or of a server
// that was configured by mistake.
const identityKey = ".store"

// admitted returns the client of addr for a request. It waits until the store to which
// this Store belongs is known.
func (b *Backend) admitted(ctx context.Context, addr string) (*conn, error) {
	c, err := b.connected(addr)
	if err != nil {
		return nil, err
	}
	if err := b.ident.AdmitRequest(ctx, addr); err != nil {
		return nil, err
	}
	return c, nil
}

// dial connects to the endpoint.
func (c *conn) dial(ctx context.Context) (net.Conn, error) {
	b := c.b
	at, err := b.pool.Address(ctx, c.addr)
	if err != nil {
		return nil, err
	}
	if err := b.pool.AwaitDial(ctx); err != nil {
		return nil, err
	}
	var nc net.Conn
	if path, unix := strings.CutPrefix(c.addr, unixScheme); unix {
		nc, err = (&net.Dialer{}).DialContext(ctx, "unix", path)
	} else {
		nc, err = b.dialer.DialContext(ctx, "tcp", at)
	}
	if err != nil {
		return nil, err
	}
	b.hooks.dialled(nc)
	return c.sockets.add(nc)
}

// dialVerified connects to the endpoint and requires that it belongs to the
// store. share counts the connection.
func (c *conn) dialVerified(ctx context.Context, share *connShare) (net.Conn, error) {
	b := c.b
	nc, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	nc, err = c.encrypted(ctx, nc)
	switch {
	case isHangup(err):
		share.refused()
		return nil, fmt.Errorf("%w; %w", err, errRefusedConn)
	case err != nil:
		return nil, err
	}
	v := &verified{Conn: nc, b: b}
	heard := newHeardConn(v, share, b.c.tls != nil)
	id, err := b.ident.Verify(ctx, c.addr, func(ctx context.Context) (string, error) { return c.identityOn(ctx, heard) })
	if err != nil {
		heard.Close()
		if errors.Is(err, errSilentCatalog) {
			return c.dialVerified(ctx, share)
		}
		return nil, err
	}
	v.id = &id
	return heard, nil
}

// verified is a connection on which the identity is read first.
type verified struct {
	net.Conn
	b  *Backend
	id *string // nil until the identity has been read
}

// Write implements [net.Conn]. It fails if the identity of the store has changed since
// the connection was made, as when the store had none at first.
func (c *verified) Write(p []byte) (int, error) {
	if c.id != nil && *c.id != c.b.ident.ID() {
		c.Close()
		return 0, errOldConnection
	}
	return c.Conn.Write(p)
}

var errOldConnection = errors.New("the connection was made before the store got its identity")

// askIdentity reads the identity at one endpoint, on a separate connection.
func (b *Backend) askIdentity(ctx context.Context, addr string) (string, error) {
	c, err := b.connected(addr)
	if err != nil {
		return "", err
	}
	nc, err := c.dial(ctx)
	if err != nil {
		return "", err
	}
	if nc, err = c.encrypted(ctx, nc); err != nil {
		return "", err
	}
	defer nc.Close()
	id, err := c.identityOn(ctx, nc)
	if errors.Is(err, errSilentCatalog) {
		return b.askIdentity(ctx, addr)
	}
	return id, err
}

// identityOn reads the identity on a connection that is not in use yet. If the
// server's own copy has none, it reads from the quorum. It returns errSilentCatalog
// if another connection must be made.
func (c *conn) identityOn(ctx context.Context, nc net.Conn) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, c.b.c.Timing.RetryTimeout/2)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	client, err := c.b.client(c.addr, checked{&oneConn{nc, bufio.NewReader(nc)}})
	if err != nil {
		return "", err
	}
	for _, stale := range []bool{true, false} {
		o := (&api.QueryOptions{AllowStale: stale, RequireConsistent: !stale, Token: c.b.token.current()}).WithContext(ctx)
		p, _, err := client.KV().Get(c.b.root+identityKey, o)
		switch {
		case err != nil && ctx.Err() != nil:
			return "", ctx.Err()
		case err != nil:
			return "", unwrapURLError(err)
		case p != nil:
			return c.locatedOn(ctx, nc, client, string(p.Value))
		}
	}
	return c.locatedOn(ctx, nc, client, "")
}

// oneConn is a transport that makes requests one after the other on one connection.
type oneConn struct {
	net.Conn
	in *bufio.Reader
}

// RoundTrip implements [http.RoundTripper].
func (c *oneConn) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Write(c.Conn); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(c.in, r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, mostBody))
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, err
}

// makeIdentity creates the identity of the store if it has none. It returns nil if the
// token may not write the identity, because such a token cannot take a lock either, and
// the calls that follow report the missing permission.
func (b *Backend) makeIdentity(ctx context.Context) error {
	if err := b.ident.Ready(ctx); err != nil || b.ident.ID() != "" {
		return err
	}
	a, err := do(ctx, b, endpoint.Write, func(ctx context.Context, c *conn) (string, error) {
		dc := b.agents.datacenter(c.addr)
		id := cmp.Or(b.ident.Former(), newIdentity(dc))
		made, err := call(ctx, c, func(ctx context.Context, token string) (bool, error) {
			made, _, err := c.api.KV().CAS(&api.KVPair{Key: b.root + identityKey, Value: []byte(id)}, writing(ctx, token))
			return made, err
		})
		if err != nil {
			return "", err
		}
		if made {
			return id, b.ident.Check(ctx, c.addr, id)
		}
		id, err = consistent(ctx, c, func(o *api.QueryOptions) (string, error) {
			p, _, err := c.api.KV().Get(b.root+identityKey, o)
			if err != nil || p == nil {
				return "", err
			}
			return string(p.Value), nil
		})
		if err != nil {
			return "", err
		}
		id = b.located(c.addr, id, dc)
		return id, b.ident.Check(ctx, c.addr, id)
	})
	var f *backend.Failure
	if errors.As(err, &f) && f.Kind == dcs.ErrUnauthorized && !f.Blame { //nolint:errorlint // a Failure's Kind is a sentinel
		return nil
	}
	if err == nil {
		b.c.Logger.Info("read or created the identity of the store", "identity", a.Value, "endpoint", a.Endpoint)
	}
	return err
}

// newest returns the largest revision in any answer so far.
func (b *Backend) newest() dcs.Revision { return max(b.minRevision.Load(), b.copy.Latest()) }

// follows checks the index of the tree in an answer of the quorum to a request that was
// sent when before was the newest revision. The index also falls if Consul forgets
// deletions. Therefore follows then compares the index of all keys, which falls only if
// the store was restored or wiped.
func (b *Backend) follows(ctx context.Context, c *conn, before, index dcs.Revision) error {
	if index < before {
		all, err := b.storeIndex(ctx, c)
		if err != nil {
			return err
		}
		index = max(index, all)
	}
	return b.ident.Follows(c.addr, before, index)
}
