package zookeeper

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
)

// failed converts the error of a call at one server to a Failure.
func (b *Backend) failed(s *session, addr string, err error) error {
	var f *backend.Failure
	if errors.As(err, &f) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	var late *afterwards
	f = &backend.Failure{Endpoint: addr, Err: err, Blame: true}
	switch {
	case errors.Is(err, errThrottled):
		f.Refused, f.Blame, f.Doubt, f.Throttled, f.Busy = true, false, true, true, time.Second
	case errors.As(err, &late):
		return err
	case b.life.Err() != nil:
		f.Err, f.Blame, f.Local = context.Cause(b.life), false, true
	case errors.Is(err, zk.ErrSessionExpired):
		f.Err, f.Refused, f.Blame = errExpired, true, false
	case errors.Is(s.ended(), errExpired):
		f.Blame = false // the request may have been executed before
	case errors.Is(err, zk.ErrSessionMoved):
		f.Refused, f.Blame = true, false
	case errors.Is(err, zk.ErrAuthFailed): // by this server, which keeps users of its own
		f.Kind, f.Err, f.Refused, f.Unconfirmed, f.Blame = dcs.ErrUnauthorized, b.needs(err), true, true, false
	case errors.Is(err, zk.ErrNoAuth), errors.Is(err, zk.ErrInvalidACL): // by the leader, or behind a barrier
		f.Kind, f.Err, f.Refused, f.Blame = dcs.ErrUnauthorized, b.needs(err), true, false
	}
	return f
}

// errThrottled is the error for a request that the server did not execute
// because it had waited for too long in the server's queue (ZTHROTTLEDOP, since
// ZooKeeper 3.7).
var errThrottled = errors.New("the server refused a request that had waited in its queue for longer than throttledOpWaitTime (zookeeper.throttled_op_wait_time), and executed nothing: it gets more requests than it can serve; raise that time or requestThrottleLimit, or send fewer requests")

// unnamed are the errors of a server that the client library reports by their
// number only.
var unnamed = map[string]error{"unknown error: -127": errThrottled}

// named returns err, or the error that the client library has no name for.
func named(err error) error {
	if err == nil {
		return nil
	}
	return cmp.Or(unnamed[err.Error()], err)
}

// needs adds the permissions that are needed, and the users of the session, to
// err.
func (b *Backend) needs(err error) error {
	return fmt.Errorf("%w (%s); the user must have cdrw on %s and all nodes below it, and r on /", err, b.c.auth.names(), b.root)
}

// errConnections is the error for a server that is at its limit of connections,
// or serves no clients.
var errConnections = errors.New("the server closed a new connection before granting a session: the server serves no clients now, or its limit of connections from one address is reached; raise maxClientCnxns (default 60), or use fewer Sessions on this host")

// notGranted returns the failure of a connection on which no session was
// granted. A server at its limit of connections keeps serving its present ones,
// so it is not ejected.
func (b *Backend) notGranted(addr string, err error) error {
	if b.life.Err() == nil && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)) {
		return &backend.Failure{Endpoint: addr, Err: fmt.Errorf("%w (%w)", errConnections, err), Refused: true, Busy: time.Second}
	}
	return b.unreachable(addr, err)
}

// unreachable returns the failure of a connection that was not made, or broke
// before the session was granted. No request was sent.
func (b *Backend) unreachable(addr string, err error) error {
	var f *backend.Failure
	if errors.As(err, &f) {
		return err
	}
	switch {
	case b.life.Err() != nil:
		return &backend.Failure{Endpoint: addr, Err: context.Cause(b.life), Refused: true, Local: true}
	case backend.IsLocal(err):
		return backend.OwnCause(addr, err)
	}
	f = &backend.Failure{Endpoint: addr, Err: err, Blame: true, Refused: true, Unreachable: true}
	var (
		alert     tls.AlertError
		unknown   x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
		untrusted *tls.CertificateVerificationError
		remoteErr *net.OpError
	)
	switch {
	case errors.As(err, &alert), errors.As(err, &unknown), errors.As(err, &host), errors.As(err, &invalid), errors.As(err, &untrusted):
		f.Kind = dcs.ErrUnauthorized
	case errors.As(err, &remoteErr) && remoteErr.Op == "remote error":
		f.Kind = dcs.ErrUnauthorized // the server refused our certificate
	}
	return f
}
