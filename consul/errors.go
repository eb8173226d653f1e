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
	"github.com/holdfast-dcs/holdfast/internal/remote"
)

var (
	errAlive   = errors.New("it said that the session is gone, and the store says that it is not")
	errNoIndex = errors.New("the answer has no X-Consul-Index, which Consul always sends: it is not Consul's")
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
var errHidden error = &statusError{http.StatusForbidden, "Permission denied: keys are hidden from the token"}

// forbidden reports whether Consul refused the token.
func forbidden(err error) bool {
	var s *statusError
	return errors.As(err, &s) && s.code == http.StatusForbidden
}

// failed makes a failure of what an endpoint, or HTTP, answered. left says
// that the request had left, or may have.
func (c *conn) failed(ctx context.Context, err error, left bool) error {
	if err := ctx.Err(); err != nil && left {
		return err
	} else if err != nil {
		return &remote.Failure{Endpoint: c.addr, Err: err, Blame: true, Refused: true}
	}
	var f *remote.Failure
	if errors.As(err, &f) {
		return f
	}
	err = plainly(err)
	f = &remote.Failure{Endpoint: c.addr, Err: err, Blame: true, Refused: !left}
	var s *statusError
	switch text := err.Error(); {
	case c.b.life.Err() != nil:
		f.Err, f.Blame = context.Cause(c.b.life), false
	case errors.As(err, &s):
		c.answered(f, s)
	case strings.Contains(text, textAlert):
		// The server refused our certificate: in TLS 1.3 it says so when we have
		// begun to write.
		f.Kind, f.Refused = dcs.ErrUnauthorized, true
	case !left && (strings.Contains(text, textCertificate) || strings.Contains(text, textTLS)):
		f.Kind = dcs.ErrUnauthorized
	}
	return f
}

// answered completes the failure of a request that Consul answered with s.
func (c *conn) answered(f *remote.Failure, s *statusError) {
	ends := func(text string) bool { return strings.HasSuffix(s.body, text) }
	switch {
	case s.code == http.StatusForbidden:
		f.Err = c.b.needs(s.Error())
		f.Kind, f.Refused, f.Blame = dcs.ErrUnauthorized, true, false
	case s.code == http.StatusRequestEntityTooLarge:
		f.Kind, f.Refused, f.Blame = dcs.ErrInvalid, true, false
	case s.code == http.StatusTooManyRequests, slices.ContainsFunc(rateLimits, ends), ends(textNoLeader), ends(textNotLeader):
		f.Refused = true // it was not given to the log
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
