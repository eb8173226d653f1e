package etcd3

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/attempt"
	"github.com/holdfast-dcs/holdfast/internal/backend"
)

// errNoSpace is the error of a full store. The outcome is unclear, because etcd applies
// the request that crosses its quota before it answers with this error (P10). The
// requests after that one are refused.
var errNoSpace = fmt.Errorf("%w: etcd's database space is exceeded: delete and compact keys, defragment the members and disarm the NOSPACE alarm, or raise --quota-backend-bytes", attempt.ErrFull)

var (
	errTerm    = errors.New("etcd's leader changed during the renewal")
	errDenied  = errors.New("etcd denies the user permission to watch the prefix of the root: grant the user at least read on the prefix")
	errStreams = errors.New("no stream of the connection was free in time: raise --max-concurrent-streams of the member, or the limit of a proxy in front of it, or make fewer calls at once")
	// errPasswordChanging matches ErrUnauthorized and does not end a call.
	errPasswordChanging = fmt.Errorf("%w: etcd refuses the password that it accepted before: write the new one to the password file", dcs.ErrUnauthorized)
)

// text returns the message of err without the prefix that gRPC adds.
func text(err error) string {
	if s, ok := status.FromError(err); ok && s != nil {
		return strings.TrimPrefix(s.Message(), "connection error: desc = ")
	}
	return err.Error()
}

// meaning is the failure that an etcd error stands for.
type meaning struct {
	backend.Failure       // without Endpoint, Err and Text
	says            error // replaces etcd's own text
}

// unauthorized is the refusal of one member. Another member may accept, because a
// member that was added again does not know the tokens of the others.
var unauthorized = meaning{Failure: backend.Failure{Kind: dcs.ErrUnauthorized, Unconfirmed: true, Refused: true}}

// throttled is the refusal of an overloaded member.
var throttled = backend.Failure{Refused: true, Doubt: true, Throttled: true, Busy: time.Second}

// invalid is the refusal of a request that no member accepts.
var invalid = meaning{Failure: backend.Failure{Kind: dcs.ErrInvalid, Refused: true}}

// unusable is the refusal of a member that cannot serve requests at all.
var unusable = meaning{Failure: backend.Failure{Refused: true, Unreachable: true}}

// meanings maps the messages of etcd's errors to failures. An error that is not listed
// leaves the outcome unclear and blames the member.
var meanings = map[string]meaning{
	message(rpctypes.ErrGRPCNoLeader):               {Failure: backend.Failure{Refused: true, Doubt: true}},
	message(rpctypes.ErrGRPCNotCapable):             unusable,
	message(rpctypes.ErrGRPCStopped):                {Failure: backend.Failure{Blame: true}},
	message(rpctypes.ErrGRPCRequestTooManyRequests): {Failure: throttled},
	message(rpctypes.ErrGRPCNotSupportedForLearner): unusable,
	message(rpctypes.ErrGRPCNoSpace):                {Failure: backend.Failure{Kind: dcs.ErrUnavailable}, says: errNoSpace},
	message(rpctypes.ErrGRPCCorrupt):                {Failure: backend.Failure{Kind: dcs.ErrUnavailable, Refused: true}},
	message(rpctypes.ErrGRPCRequestTooLarge):        invalid,
	message(rpctypes.ErrGRPCTooManyOps):             invalid,
	message(rpctypes.ErrGRPCDuplicateKey):           invalid,
	message(rpctypes.ErrGRPCLeaseTTLTooLarge):       invalid,
	message(rpctypes.ErrGRPCCompacted):              {Failure: backend.Failure{Kind: dcs.ErrUnavailable, Refused: true}},
	message(rpctypes.ErrGRPCPermissionDenied):       unauthorized,
	message(rpctypes.ErrGRPCUserEmpty):              unauthorized,
	message(rpctypes.ErrGRPCAuthFailed):             unauthorized,
	message(rpctypes.ErrGRPCInvalidAuthToken):       unauthorized,
	message(rpctypes.ErrGRPCAuthOldRevision):        unauthorized,
}

// textTooLarge is part of gRPC's error for a message above the limit of one side, such
// as an answer that lists many keys.
const textTooLarge = "message larger than max"

// httpThrottled are the texts by which gRPC passes on a proxy's HTTP status 429
// or 503.
var httpThrottled = []string{"unexpected HTTP status code received from server: 429", "unexpected HTTP status code received from server: 503"}

// sameMoment bounds the difference between the client's and the member's view of one
// deadline.
const sameMoment = 10 * time.Millisecond

func message(err error) string { return status.Convert(err).Message() }

// certificates are texts that identify the error of a refused certificate, because
// gRPC has no code for it.
var certificates = []string{"x509: ", "tls: "}

// notSent returns the failure of a request that was given up before it was sent. If
// the connection was ready, the request waited for one of the streams that the member
// allows, and the member is not at fault.
func (c *conn) notSent(ctx context.Context, err error) error {
	if ctx.Err() != nil && c.cc.GetState() == connectivity.Ready {
		return backend.OwnCause(c.addr, errStreams)
	}
	return c.failed(ctx, err, false)
}

// failed returns the failure for an error of a member or of gRPC. left must be
// true if the request may have been sent.
func (c *conn) failed(ctx context.Context, err error, left bool) error {
	if ended := ctx.Err(); ended != nil && left {
		return ended
	} else if ended != nil {
		return &backend.Failure{Endpoint: c.addr, Err: ended, Blame: true, Refused: true}
	}
	var f *backend.Failure
	if errors.As(err, &f) {
		return f
	}
	if status.Code(err) == codes.DeadlineExceeded {
		// gRPC sends the deadline along, and the member may detect its end before the
		// client does. That counts as silence and not as an error of the member.
		if d, ok := ctx.Deadline(); ok && time.Until(d) < sameMoment {
			return context.DeadlineExceeded
		}
	}
	s := status.Convert(err)
	if m, ok := meanings[s.Message()]; ok {
		return m.failure(c.addr, err)
	}
	if containsAny(s.Message(), httpThrottled) {
		m := meaning{Failure: throttled}
		m.Refused = false // the proxy may have passed the request on
		return m.failure(c.addr, err)
	}
	f = &backend.Failure{Endpoint: c.addr, Err: err, Text: text(err), Blame: true, Refused: !left, Unreachable: !left}
	switch {
	case s.Code() == codes.ResourceExhausted && strings.Contains(s.Message(), textTooLarge):
		f.Kind, f.Blame, f.Unreachable = dcs.ErrUnavailable, false, false // a limit of the server or of a proxy
	case s.Code() == codes.Canceled && c.b.life.Err() != nil:
		return &backend.Failure{Endpoint: c.addr, Err: context.Cause(c.b.life), Refused: !left, Local: true}
	case !left && backend.IsLocalText(s.Message()):
		f = backend.OwnCause(c.addr, err)
		f.Text = text(err)
	case !left && containsAny(s.Message(), certificates):
		f.Kind = dcs.ErrUnauthorized
	}
	return f
}

// failure returns m as the failure of the member at addr.
func (m meaning) failure(addr string, err error) *backend.Failure {
	f := m.Failure
	f.Endpoint, f.Err, f.Text = addr, err, text(err)
	if m.says != nil {
		f.Err, f.Text = m.says, ""
	}
	return &f
}

func containsAny(s string, parts []string) bool {
	for _, p := range parts {
		if strings.Contains(s, p) {
			return true
		}
	}
	return false
}

func is(err, etcd error) bool { return err != nil && text(err) == message(etcd) }

// staleToken reports whether a call that failed with err may succeed after a new
// login.
func (c *conn) staleToken(err error) bool {
	return c.b.c.Username != "" && (is(err, rpctypes.ErrGRPCInvalidAuthToken) || is(err, rpctypes.ErrGRPCAuthOldRevision) || is(err, rpctypes.ErrGRPCUserEmpty))
}

func authOff(err error) bool { return is(err, rpctypes.ErrGRPCAuthNotEnabled) }

func wrongPassword(err error) bool { return is(err, rpctypes.ErrGRPCAuthFailed) }
