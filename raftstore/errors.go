package raftstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// errWithdrawn says that a command was cancelled before it was applied.
var errWithdrawn = errors.New("withdrawn before it was applied: nothing was written, and nothing will be")

// errForgotten says that the outcome of a command can not be told any more.
var errForgotten = errors.New("the cluster no longer remembers what became of it")

// fail makes the error of one call. A closed backend says so, whatever else
// went wrong because of it.
func (b *frontend) fail(op, key string, kind error, endpoint string, cause error) *dcs.Error {
	if b.life.Err() != nil {
		kind, endpoint = dcs.ErrClosed, ""
		if errors.Is(cause, dcs.ErrClosed) {
			cause = nil
		}
	}
	return &dcs.Error{Backend: backendName, Op: op, Key: key, Endpoint: endpoint, Kind: kind, Err: cause}
}

// unavailable is the error of a call that got no answer within its budget.
func (b *frontend) unavailable(ctx context.Context, op, key string, o outcome) *dcs.Error {
	kind, err := dcs.ErrUnavailable, b.nodes.explain(o.err)
	if errors.Is(err, transport.ErrPeerRefused) {
		kind = dcs.ErrUnauthorized
	}
	return b.fail(op, key, kind, o.endpoint, withContext(ctx, err))
}

// withContext adds what ended ctx to the reason for a failure, so that the
// error matches the context's too.
func withContext(ctx context.Context, err error) error {
	ended := ctx.Err()
	switch {
	case ended == nil || errors.Is(err, ended):
		return err
	case err == nil:
		return ended
	}
	return fmt.Errorf("%w; last: %w", ended, err)
}
