package raftstore

import (
	"context"
	"errors"
)

// errNotSent marks the errors of calls of which certainly nothing was sent or,
// if it was, was certainly refused unexecuted: the call had no effect. Every
// other error of a call is unclear.
var errNotSent = errors.New("not sent")

// callHandler answers one call. The context ends with the caller's budget,
// with its interest or with the connection. The body is the handler's to
// keep; the reply is the caller's. It may run many times at once.
type callHandler func(ctx context.Context, op byte, body []byte) []byte
