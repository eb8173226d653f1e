package consul

import (
	"context"
	"errors"
	"fmt"
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
	errAlive = errors.New("it said that the session is gone, and the store says that it is not")
	// errConnections is the limit of an agent on one address. It is no fault of the
	// agent's.
	errConnections = errors.New("the agent's limit on connections from one address may be reached: raise limits.http_max_conns_per_client (default 200), or use fewer Stores on this host")
	// errRefusedConn says that the agent read no request on a new connection.
	errRefusedConn = fmt.Errorf("the agent refused a new connection: %w", errConnections)
	errNoConn      = fmt.Errorf("no connection was free in time: %d requests to the agent were under way, or %w", mostConns, endpoint.ErrDials)
	errNoIndex     = errors.New("the answer has no X-Consul-Index, which Consul always sends: it is not Consul's")
)

// What Consul says in words only. Each has a test. Consul quotes keys in its
// texts, so that each is compared where it begins or ends, never within.
const (
	textNoLeader       = "No cluster leader"         // at the end, behind the calls that were on the way
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

// rateLimits are the texts of refusals by Consul's rate limits, behind the calls
// that were on the way.
var rateLimits = []string{
	"rate limit exceeded, try again later or against a different server",
	"rate limit exceeded for operation that can only be performed by the leader, try again later",
	"RPC rate limit exceeded",
}

// refusal is why Consul refused one operation of a transaction.
type refusal uint8

const (
	condition refusal = iota // a condition does not hold
	denied                   // the token lacks a right
	delayed                  // the lock-delay of an earlier session
	leaseGone                // the operation's session is not live
)

// refusalOf reads what Consul says of op.
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

// shortest finds the shortest session in Consul's refusal of a shorter one.
var shortest = regexp.MustCompile(`must be between \[([^=\]]+)=`)

// tooShort returns the shortest TTL that the servers grant, if err is their
// refusal of a shorter one.
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

// plainly is what an error says, without the request's address.
func plainly(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// errHidden is what a token may not see. Consul leaves it out of a list
// without a word.
var errHidden error = &statusError{code: http.StatusForbidden, body: "Permission denied: keys are hidden from the token"}

// forbidden reports whether Consul refused the token.
func forbidden(err error) bool {
	var s *statusError
	return errors.As(err, &s) && s.code == http.StatusForbidden
}

// deniedIn is the error of a transaction that Consul refused because the token
// lacks a right, nil for any other. Consul answers with the status of a conflict.
func deniedIn(faults api.TxnErrors) error {
	for _, f := range faults {
		if refusalOf(nil, f.What) == denied {
			return &statusError{code: http.StatusForbidden, body: f.What}
		}
	}
	return nil
}

// failed makes a failure of what an endpoint, or HTTP, answered. left says
// that the request had left, or may have.
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
	err = plainly(err)
	f = &backend.Failure{Endpoint: c.addr, Err: err, Blame: true, Refused: !left, Unreachable: !left}
	var s *statusError
	switch text := err.Error(); {
	case c.b.life.Err() != nil:
		return &backend.Failure{Endpoint: c.addr, Err: context.Cause(c.b.life), Local: true, Refused: !left}
	case !left && backend.IsLocal(err):
		return &backend.Failure{Endpoint: c.addr, Err: err, Local: true, Refused: true}
	case errors.Is(err, errConnections):
		refused := !left || errors.Is(err, errRefusedConn)
		return &backend.Failure{Endpoint: c.addr, Err: err, Refused: refused, Busy: time.Second}
	case errors.As(err, &s):
		c.answered(f, s)
	case strings.Contains(text, textAlert):
		// The server refused our certificate: in TLS 1.3 it says so when we have
		// begun to write.
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
		// Another agent may know a token that has not reached this one.
		f.Err = c.b.needs(s.Error())
		f.Kind, f.Unconfirmed, f.Refused, f.Blame = dcs.ErrUnauthorized, true, true, false
	case s.code == http.StatusRequestEntityTooLarge:
		f.Kind, f.Refused, f.Blame = dcs.ErrInvalid, true, false
	case s.code == http.StatusTooManyRequests && strings.HasPrefix(s.body, textConnections):
		f.Err, f.Refused, f.Blame, f.Busy = fmt.Errorf("%w: %w", s, errConnections), true, false, time.Second
	case s.code == http.StatusTooManyRequests, s.code == http.StatusServiceUnavailable, slices.ContainsFunc(rateLimits, ends):
		f.Refused = s.code != http.StatusServiceUnavailable || slices.ContainsFunc(rateLimits, ends) // a proxy may have passed it on
		f.Blame, f.Doubt, f.Throttled, f.Busy = false, true, true, max(s.retryAfter, time.Second)
	case ends(textNoLeader), ends(textNotLeader):
		f.Blame, f.Refused, f.Doubt = false, true, true // it was not given to the log
	}
}

// needs says which rules a token needs, after Consul's own words.
func (b *Backend) needs(said string) error {
	node := b.c.Node
	if node == "" {
		node = "<the agent's node>"
	}
	return fmt.Errorf(`%s; the token needs key_prefix %q { policy = "write" }, session %q { policy = "write" } and, to register it, node %q { policy = "write" }`,
		said, b.root, node, node)
}
