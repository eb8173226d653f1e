package etcd3

import (
	"context"
	"errors"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/attempt"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
)

var (
	errOtherCluster = errors.New("it belongs to another cluster")
	errTerm         = errors.New("the store's leader changed during the renewal")
	errDials        = errors.New("too many connections were made within a second")
	errBehind       = errors.New("its view lags behind the store's")
)

// failure is what one copy of a call brought.
type failure struct {
	endpoint string
	err      error
	// kind is set when it is the store's own word: the call ends with it.
	kind error
	// refused says that the copy wrote nothing and never will.
	refused bool
	// blame says that the member is at fault, and another one may not be.
	blame bool
}

func (f *failure) Error() string { return text(f.err) }

// Unwrap exposes the kind and, for what certainly wrote nothing, ErrNotSent.
func (f *failure) Unwrap() []error {
	out := []error{f.err}
	if f.kind != nil {
		out = append(out, &dcs.Error{Kind: f.kind, Endpoint: f.endpoint, Err: f.err})
	}
	if f.refused {
		out = append(out, attempt.ErrNotSent)
	}
	return out
}

// text is an error's message without gRPC's frame.
func text(err error) string {
	if s, ok := status.FromError(err); ok && s != nil {
		return strings.TrimPrefix(s.Message(), "connection error: desc = ")
	}
	return err.Error()
}

// meaning is what one of etcd's answers means.
type meaning struct {
	kind           error
	refused, blame bool
}

// meanings are etcd's own errors. What is not listed is unclear, and the
// member is to blame.
var meanings = map[string]meaning{
	message(rpctypes.ErrGRPCNoLeader):               {refused: true, blame: true},
	message(rpctypes.ErrGRPCNotCapable):             {refused: true, blame: true},
	message(rpctypes.ErrGRPCStopped):                {blame: true},
	message(rpctypes.ErrGRPCRequestTooManyRequests): {refused: true, blame: true},
	message(rpctypes.ErrGRPCNotSupportedForLearner): {refused: true, blame: true},
	message(rpctypes.ErrGRPCNoSpace):                {kind: dcs.ErrUnavailable, refused: true},
	message(rpctypes.ErrGRPCCorrupt):                {kind: dcs.ErrUnavailable, refused: true},
	message(rpctypes.ErrGRPCRequestTooLarge):        {kind: dcs.ErrInvalid, refused: true},
	message(rpctypes.ErrGRPCTooManyOps):             {kind: dcs.ErrInvalid, refused: true},
	message(rpctypes.ErrGRPCDuplicateKey):           {kind: dcs.ErrInvalid, refused: true},
	message(rpctypes.ErrGRPCLeaseTTLTooLarge):       {kind: dcs.ErrInvalid, refused: true},
	message(rpctypes.ErrGRPCCompacted):              {kind: dcs.ErrUnavailable, refused: true},
	message(rpctypes.ErrGRPCPermissionDenied):       {kind: dcs.ErrUnauthorized, refused: true},
	message(rpctypes.ErrGRPCUserEmpty):              {kind: dcs.ErrUnauthorized, refused: true},
	message(rpctypes.ErrGRPCAuthFailed):             {kind: dcs.ErrUnauthorized, refused: true},
	message(rpctypes.ErrGRPCInvalidAuthToken):       {kind: dcs.ErrUnauthorized, refused: true},
	message(rpctypes.ErrGRPCAuthOldRevision):        {kind: dcs.ErrUnauthorized, refused: true},
}

func message(err error) string { return status.Convert(err).Message() }

// certificates are the texts by which a refused certificate is known: gRPC
// gives no code.
var certificates = []string{"x509: ", "tls: ", "authentication handshake failed"}

// failed makes a failure of what a member, or gRPC, answered. left says that
// the request had left.
func (c *conn) failed(ctx context.Context, err error, left bool) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	f = &failure{endpoint: c.addr, err: err, blame: true, refused: !left}
	s := status.Convert(err)
	if m, ok := meanings[s.Message()]; ok {
		f.kind, f.refused, f.blame = m.kind, m.refused, m.blame
		return f
	}
	switch {
	case s.Code() == codes.Canceled && c.b.life.Err() != nil:
		f.err, f.blame = context.Cause(c.b.life), false
	case !left && containsAny(s.Message(), certificates):
		f.kind = dcs.ErrUnauthorized
	}
	return f
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

// staleToken reports whether a new login may help.
func staleToken(err error) bool {
	return is(err, rpctypes.ErrGRPCInvalidAuthToken) || is(err, rpctypes.ErrGRPCAuthOldRevision) || is(err, rpctypes.ErrGRPCUserEmpty)
}

func authOff(err error) bool { return is(err, rpctypes.ErrGRPCAuthNotEnabled) }

// judge is the Pool's view of an error.
func judge(err error) endpoint.Verdict {
	var f *failure
	if !errors.As(err, &f) {
		return endpoint.Verdict{Blame: !errors.Is(err, dcs.ErrClosed), Reason: text(err)}
	}
	// Certificates may be wrong at one member only.
	final := f.kind != nil && !f.blame
	return endpoint.Verdict{Final: final, Refused: f.refused, Blame: f.blame, Reason: text(f.err)}
}

// kinded is the *dcs.Error of a call that failed.
func kinded(op, key, at string, err error) *dcs.Error {
	e := &dcs.Error{Backend: backendName, Op: op, Key: key, Endpoint: at, Err: err}
	var f *failure
	switch {
	case errors.As(err, &f) && f.kind != nil:
		e.Kind, e.Err, e.Endpoint = f.kind, f.err, f.endpoint
	case errors.Is(err, dcs.ErrClosed):
		e.Kind = dcs.ErrClosed
	default:
		e.Kind = dcs.ErrUnavailable
	}
	return e
}
