package zookeeper

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"

	"github.com/go-zookeeper/zk"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
)

// identityKey holds the name of the tree's store. The first client that writes
// makes it. It is read on each new connection, so that no request goes to a
// server of another ensemble. Such a server would report that our sessions are
// over.
const identityKey = ".store"

// admitted returns nil if a request may be sent in s at addr. It waits until it
// is known which store this Store belongs to. A session that holds something
// moves to addr only after the server was found, on another connection, to
// belong to the store.
func (b *Backend) admitted(ctx context.Context, s *session, addr string) error {
	if err := b.ident.AdmitRequest(ctx, addr); err != nil {
		return err
	}
	if s != nil && s.o.once {
		return nil
	}
	return b.verifyServer(ctx, addr)
}

// verifyServer requires that the server at addr belongs to the store.
func (b *Backend) verifyServer(ctx context.Context, addr string) error {
	s, err := b.link(addr)
	if err != nil {
		return backend.NotSent(err)
	}
	w, err := s.at(ctx, addr)
	if err != nil {
		return err
	}
	return s.verify(ctx, w)
}

// verify requires that the server of a connection of s belongs to the store. It
// asks once for each connection.
func (s *session) verify(ctx context.Context, w *trackedConn) error {
	if known := w.identity.Load(); known != nil && *known == s.b.ident.ID() {
		return nil
	}
	id, err := s.b.ident.Verify(ctx, w.addr, func(ctx context.Context) (string, error) { return s.identityAt(ctx, w) })
	if err != nil {
		return backend.NotSent(err)
	}
	w.identity.Store(&id)
	if id != "" {
		s.identify()
	}
	return nil
}

// askIdentity reads the store's identity at one server.
func (b *Backend) askIdentity(ctx context.Context, addr string) (string, error) {
	s, err := b.link(addr)
	if err != nil {
		return "", err
	}
	w, err := s.at(ctx, addr)
	if err != nil {
		return "", err
	}
	return s.identityAt(ctx, w)
}

// identityAt reads the identity on a connection of s.
func (s *session) identityAt(ctx context.Context, w *trackedConn) (string, error) {
	type answer struct {
		id  string
		err error
	}
	done := make(chan answer, 1)
	s.b.bg.run(func() {
		id, err := permitted(ctx, s, func() (string, error) { return s.readIdentity(s.conn) })
		done <- answer{id, err}
	})
	select {
	case a := <-done:
		switch {
		case a.err != nil:
			return "", s.b.failed(s, w.addr, a.err)
		case !s.on(w):
			return "", &backend.Failure{Endpoint: w.addr, Err: errBroken, Refused: true}
		}
		return a.id, nil
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.DeadlineExceeded) && w.silent() >= s.b.c.Timing.RetryTimeout/silentShare {
			s.cut(w)
		}
		return "", &backend.Failure{Endpoint: w.addr, Err: ctx.Err(), Blame: true, Refused: true}
	}
}

// readIdentity reads the identity. If the server's own copy has none, it is
// read again behind a barrier.
func (s *session) readIdentity(c *zk.Conn) (string, error) {
	path := s.b.path(identityKey)
	n, err := read(c, path)
	if err == nil && !n.there {
		n, err = proven(s, c, func() (node, error) { return read(c, path) })
	}
	return string(n.value), err
}

// makeIdentity gives the store an identity if it has none. A user that may not
// write the identity cannot lead a service either. The calls that follow report
// the missing permission.
func (b *Backend) makeIdentity(ctx context.Context) error {
	if err := b.ident.Ready(ctx); err != nil || b.ident.ID() != "" {
		return err
	}
	path := b.path(identityKey)
	a, err := do(ctx, b, endpoint.Write, func(ctx context.Context, addr string) (string, error) {
		s, err := b.link(addr)
		if err != nil {
			return "", err
		}
		id, _, err := call(ctx, s, addr, request{"Identify", []string{identityKey}}, func(c *zk.Conn) (string, error) {
			id := cmp.Or(b.ident.Former(), rand.Text())
			made, err := b.create(c, path, []byte(id))
			if made || err != nil {
				return id, err
			}
			return s.readIdentity(c)
		})
		if err != nil {
			return "", err
		}
		return id, b.ident.Check(ctx, addr, id)
	})
	var f *backend.Failure
	if errors.As(err, &f) && f.Kind == dcs.ErrUnauthorized && !f.Blame { //nolint:errorlint // a Failure's Kind is a sentinel
		return nil
	}
	if err == nil {
		b.c.Logger.Info("the store's identity", "identity", a.Value, "endpoint", a.Endpoint)
	}
	return err
}

// create makes a node, and the parents that are missing, unless the node is
// there. It reports whether it made the node.
func (b *Backend) create(c *zk.Conn, path string, value []byte) (bool, error) {
	for {
		up := parents(path)
		nodes, err := readAll(c, append(up, path))
		if err != nil {
			return false, err
		}
		if nodes[len(up)].there {
			return false, nil
		}
		var ops []any
		for i, n := range nodes[:len(up)] {
			if !n.there {
				ops = append(ops, &zk.CreateRequest{Path: up[i], Data: parentValue, Acl: b.c.acl})
			}
		}
		results, err := multi(c, append(ops, &zk.CreateRequest{Path: path, Data: value, Acl: b.c.acl})...)
		switch refusal := refusalOf(results, err); {
		case errors.Is(refusal, zk.ErrNodeExists), errors.Is(refusal, zk.ErrNoNode):
			// Another client has made one of them, or the server's copy is old.
			if err := barrier(c); err != nil {
				return false, err
			}
		case refusal != nil:
			return false, refusal
		default:
			return err == nil, err
		}
	}
}

// newest returns the largest revision of any answer.
func (b *Backend) newest() dcs.Revision { return max(b.minRevision.Load(), b.copy.Latest()) }

// quorum makes a request to the quorum through one server. It returns the
// connection. Later reads on it are not older.
func (b *Backend) quorum(ctx context.Context, addr string, r request) (*trackedConn, error) {
	before := b.newest()
	_, w, err := through(ctx, b, addr, r, askQuorum)
	if err == nil {
		err = b.ident.Follows(addr, before, w.latest())
	}
	return w, err
}
