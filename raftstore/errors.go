package raftstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// errWithdrawn reports that a command was cancelled before it was applied.
var errWithdrawn = errors.New("command was cancelled before it was applied: nothing was or will be written")

// errForgotten reports that the outcome of a command cannot be known any more.
var errForgotten = errors.New("outcome of the command is unknown: the cluster has discarded its record")

// fail returns the error of one call. If the backend is closed, its kind is ErrClosed,
// because other failures follow from that.
func (b *frontend) fail(op, key string, kind error, endpoint string, cause error) *dcs.Error {
	if b.life.Err() != nil {
		kind, endpoint = dcs.ErrClosed, ""
		if errors.Is(cause, dcs.ErrClosed) {
			cause = nil
		}
	}
	return &dcs.Error{Backend: backendName, Op: op, Key: key, Endpoint: endpoint, Kind: kind, Err: cause}
}

// unavailable returns the error of a call that got no answer within its budget.
func (b *frontend) unavailable(ctx context.Context, op, key string, o outcome) *dcs.Error {
	kind, err := dcs.ErrUnavailable, b.nodes.explain(o.err)
	if errors.Is(err, transport.ErrPeerRefused) {
		kind = dcs.ErrUnauthorized
	}
	return b.fail(op, key, kind, o.endpoint, withContext(ctx, err))
}

// withContext adds the error of an ended ctx to the reason for a failure, so that the
// result matches both.
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
