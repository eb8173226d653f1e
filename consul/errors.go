package consul

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
)

var (
	errAlive = errors.New("the endpoint does not know the session, but the quorum does")
	// errConnections is the limit of an agent on connections from one address. It does
	// not blame the agent.
	errConnections = errors.New("the agent's limit on connections from one address may be reached: raise limits.http_max_conns_per_client (default 200), or use fewer Stores on this host")
	// errRefusedConn means that the agent read no request on a new connection.
	errRefusedConn = fmt.Errorf("the agent refused a new connection: %w", errConnections)
	errNoConn      = fmt.Errorf("no connection was free in time: %d requests to the agent were in flight, or %w", mostConns, endpoint.ErrDials)
	errNoIndex     = errors.New("the response has no X-Consul-Index header, which Consul always sends: check that the endpoint is a Consul agent")
)

// Texts that are the only indication of an error in a response of Consul. Each has a
// test. Consul quotes keys in its texts, so that a text is compared with the beginning
// or the end and never with the middle.
const (
	textNoLeader       = "No cluster leader"         // at the end, after the names of forwarded calls
	textNotLeader      = "node is not the leader"    // the same
	textNoNode         = "Missing node registration" // the same
	textLockDelay      = " due to lock delay"        // at the end
	textNoSession      = "invalid session "          // at the beginning
	textDenied         = "Permission denied"         // the same
	textACLNotFound    = "ACL not found"             // the same
	textCertificate    = "x509: "
	textTLS            = "tls: "
	textAlert          = "remote error: tls: "
	textConnections    = "Your IP is issuing too many concurrent connections" // at the beginning
	textInvalidSession = "Invalid Session TTL"
)

// rateLimits are the texts of refusals by Consul's rate limits. They are at the end,
// after the names of forwarded calls.
var rateLimits = []string{
	"rate limit exceeded, try again later or against a different server",
	"rate limit exceeded for operation that can only be performed by the leader, try again later",
	"RPC rate limit exceeded",
}

// A refusal is the reason for which Consul refused one operation of a transaction.
type refusal uint8

const (
	condition refusal = iota // a condition does not hold
	denied                   // the token lacks a permission
	delayed                  // the lock-delay of an earlier session
	leaseGone                // the session of the operation does not exist
)

// refusalOf returns the refusal of op from Consul's text.
func refusalOf(op *api.KVTxnOp, what string) refusal {
	switch {
	case strings.HasPrefix(what, textDenied), strings.HasPrefix(what, textACLNotFound):
		return denied
	case strings.HasSuffix(what, textLockDelay):
		return delayed
	case op != nil && op.Verb == api.KVLock && strings.HasPrefix(what, textNoSession):
		return leaseGone
	}
	return condition
}

// shortest matches the minimum session TTL in Consul's refusal of a shorter one.
var shortest = regexp.MustCompile(`must be between \[([^=\]]+)=`)

// tooShort returns the minimum session TTL of the servers, if err is their refusal of a
// shorter one.
func tooShort(err error) (time.Duration, bool) {
	if err == nil || !strings.Contains(err.Error(), textInvalidSession) {
		return 0, false
	}
	m := shortest.FindStringSubmatch(err.Error())
	if m == nil {
		return 0, false
	}
	d, err := time.ParseDuration(m[1])
	return d, err == nil && d > 0
}

// unwrapURLError returns err without the URL of the request.
func unwrapURLError(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// errHidden is the error of a list from which Consul left out keys that the token may not
// read. Consul itself returns no error.
var errHidden error = &statusError{code: http.StatusForbidden, body: "Permission denied: keys are hidden from the token"}

// forbidden reports whether Consul refused the token or denied it a permission.
func forbidden(err error) bool {
	var s *statusError
	return errors.As(err, &s) && s.code == http.StatusForbidden
}

// deniedIn returns the error of a transaction that Consul refused because the token lacks
// a permission, or nil. Consul answers such a transaction with the status of a conflict.
func deniedIn(faults api.TxnErrors) error {
	for _, f := range faults {
		if refusalOf(nil, f.What) == denied {
			return &statusError{code: http.StatusForbidden, body: f.What}
		}
	}
	return nil
}

// failed returns the failure for an error of an endpoint or of HTTP. left must be true if
// the request may have been sent.
func (c *conn) failed(ctx context.Context, err error, left bool) error {
	var f *backend.Failure
	if errors.As(err, &f) {
		return f
	}
	if ended := ctx.Err(); ended != nil && left {
		return ended
	} else if ended != nil {
		return &backend.Failure{Endpoint: c.addr, Err: ended, Blame: true, Refused: true}
	}
	err = unwrapURLError(err)
	f = &backend.Failure{Endpoint: c.addr, Err: err, Blame: true, Refused: !left, Unreachable: !left}
	var s *statusError
	switch text := err.Error(); {
	case c.b.life.Err() != nil:
		return &backend.Failure{Endpoint: c.addr, Err: context.Cause(c.b.life), Local: true, Refused: !left}
	case errors.Is(err, net.ErrClosed): // by this client: an older connection, or one of an ejected agent
		return &backend.Failure{Endpoint: c.addr, Err: err, Local: true, Refused: !left}
	case !left && backend.IsLocal(err):
		return backend.OwnCause(c.addr, err)
	case errors.Is(err, errConnections):
		refused := !left || errors.Is(err, errRefusedConn)
		return &backend.Failure{Endpoint: c.addr, Err: err, Refused: refused, Busy: time.Second}
	case errors.As(err, &s):
		c.answered(f, s)
	case strings.Contains(text, textAlert):
		// The server rejected the client certificate. In TLS 1.3 it does so after the
		// client has begun to write.
		f.Kind, f.Refused, f.Unreachable = dcs.ErrUnauthorized, true, true
	case !left && (strings.Contains(text, textCertificate) || strings.Contains(text, textTLS)):
		f.Kind = dcs.ErrUnauthorized
	}
	return f
}

// answered completes the failure of a request that Consul answered with s.
func (c *conn) answered(f *backend.Failure, s *statusError) {
	ends := func(text string) bool { return strings.HasSuffix(s.body, text) }
	f.Unreachable = false
	switch {
	case s.code == http.StatusForbidden:
		// Another agent may know a token that has not been replicated to this one.
		f.Err = c.b.needs(s.Error())
		f.Kind, f.Unconfirmed, f.Refused, f.Blame = dcs.ErrUnauthorized, true, true, false
	case s.code == http.StatusRequestEntityTooLarge:
		f.Kind, f.Refused, f.Blame = dcs.ErrInvalid, true, false
	case s.code == http.StatusTooManyRequests && strings.HasPrefix(s.body, textConnections):
		f.Err, f.Refused, f.Blame, f.Busy = fmt.Errorf("%w: %w", s, errConnections), true, false, time.Second
	case s.code == http.StatusTooManyRequests, s.code == http.StatusServiceUnavailable, slices.ContainsFunc(rateLimits, ends):
		f.Refused = s.code != http.StatusServiceUnavailable || slices.ContainsFunc(rateLimits, ends) // a proxy may have passed the request on
		f.Blame, f.Doubt, f.Throttled, f.Busy = false, true, true, max(s.retryAfter, time.Second)
	case ends(textNoLeader), ends(textNotLeader):
		f.Blame, f.Refused, f.Doubt = false, true, true // the request was not written to the Raft log
	}
}

// needs returns an error with Consul's text and the rules that a token needs.
func (b *Backend) needs(said string) error {
	node := b.c.Node
	if node == "" {
		node = "<the agent's node>"
	}
	return fmt.Errorf(`%s; the token needs key_prefix %q { policy = "write" }, session %q { policy = "write" } and, to register it, node %q { policy = "write" }`,
		said, b.root, node, node)
}
