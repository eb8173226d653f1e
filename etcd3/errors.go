package etcd3

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/attempt"
	"github.com/holdfast-dcs/holdfast/internal/remote"
)

// errNoSpace is what a full store answers. It is unclear, because etcd applies
// the request that crosses its quota before it answers so (P10). The requests
// after that one are refused.
var errNoSpace = fmt.Errorf("%w: etcd's database space is exceeded: delete and compact keys, defragment the members and disarm the NOSPACE alarm, or raise --quota-backend-bytes", attempt.ErrFull)

var (
	errOtherCluster = errors.New("it belongs to another cluster")
	errTerm         = errors.New("the store's leader changed during the renewal")
	errDenied       = errors.New("etcd denies the user the right to watch the root's prefix")
	errBehind       = errors.New("its view lags behind the store's")
)

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
	says           error // instead of etcd's own text
}

// meanings are etcd's own errors. What is not listed is unclear, and the
// member is to blame.
var meanings = map[string]meaning{
	message(rpctypes.ErrGRPCNoLeader):               {refused: true, blame: true},
	message(rpctypes.ErrGRPCNotCapable):             {refused: true, blame: true},
	message(rpctypes.ErrGRPCStopped):                {blame: true},
	message(rpctypes.ErrGRPCRequestTooManyRequests): {refused: true, blame: true},
	message(rpctypes.ErrGRPCNotSupportedForLearner): {refused: true, blame: true},
	message(rpctypes.ErrGRPCNoSpace):                {kind: dcs.ErrUnavailable, says: errNoSpace},
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

// sameMoment is how far two sides' views of one deadline may be apart.
const sameMoment = 10 * time.Millisecond

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
	var f *remote.Failure
	if errors.As(err, &f) {
		return f
	}
	if status.Code(err) == codes.DeadlineExceeded {
		// A member that is told our deadline may find it over before we do: that
		// is silence, and no fault of its own to tell of.
		if d, ok := ctx.Deadline(); ok && time.Until(d) < sameMoment {
			return context.DeadlineExceeded
		}
	}
	f = &remote.Failure{Endpoint: c.addr, Err: err, Text: text(err), Blame: true, Refused: !left}
	s := status.Convert(err)
	if m, ok := meanings[s.Message()]; ok {
		f.Kind, f.Refused, f.Blame = m.kind, m.refused, m.blame
		if m.says != nil {
			f.Err, f.Text = m.says, ""
		}
		return f
	}
	switch {
	case s.Code() == codes.Canceled && c.b.life.Err() != nil:
		f.Err, f.Text, f.Blame = context.Cause(c.b.life), "", false
	case !left && containsAny(s.Message(), certificates):
		f.Kind = dcs.ErrUnauthorized
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
func (c *conn) staleToken(err error) bool {
	return c.b.c.Username != "" && (is(err, rpctypes.ErrGRPCInvalidAuthToken) || is(err, rpctypes.ErrGRPCAuthOldRevision) || is(err, rpctypes.ErrGRPCUserEmpty))
}

func authOff(err error) bool { return is(err, rpctypes.ErrGRPCAuthNotEnabled) }
