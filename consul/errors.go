package consul

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/remote"
)

var (
	errBehind = errors.New("its view lags behind the store's")
	errAlive  = errors.New("it said that the session is gone, and the store says that it is not")
)

// What Consul says in words only. Each has a test.
const (
	textNoLeader       = "No cluster leader"
	textNotLeader      = "node is not the leader"
	textNoSession      = "invalid session"
	textLockDelay      = "lock delay"
	textDenied         = "Permission denied"
	textACLNotFound    = "ACL not found"
	textNoNode         = "Missing node registration"
	textCertificate    = "x509: "
	textTLS            = "tls: "
	textAlert          = "remote error: tls: "
	textRateLimit      = "rate limit exceeded"
	textInvalidSession = "Invalid Session TTL"
)

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
	text := err.Error()
	var s *statusError
	switch {
	case c.b.life.Err() != nil:
		f.Err, f.Blame = context.Cause(c.b.life), false
	case forbidden(err):
		f.Err = c.b.needs(text)
		f.Kind, f.Refused, f.Blame = dcs.ErrUnauthorized, true, false
	case errors.As(err, &s) && s.code == http.StatusRequestEntityTooLarge:
		f.Kind, f.Refused, f.Blame = dcs.ErrInvalid, true, false
	case errors.As(err, &s) && (s.code == http.StatusTooManyRequests || strings.Contains(text, textRateLimit)):
		f.Refused = true
	case strings.Contains(text, textNoLeader), strings.Contains(text, textNotLeader):
		f.Refused = true // it was not given to the log
	case strings.Contains(text, textAlert):
		// The server refused our certificate: in TLS 1.3 it says so when we have
		// begun to write.
		f.Kind, f.Refused = dcs.ErrUnauthorized, true
	case !left && (strings.Contains(text, textCertificate) || strings.Contains(text, textTLS)):
		f.Kind = dcs.ErrUnauthorized
	}
	return f
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
