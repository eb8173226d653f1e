package memstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/attempt"
	"github.com/holdfast-dcs/holdfast/internal/backoff"
)

// address sets the client, root and endpoint of copy n of c. The endpoints are counted
// from the index from.
func (b *Backend) address(c Call, from int32, n int) Call {
	c.Client, c.Root, c.Copy = b.o.Name, b.o.Root, n
	c.Endpoint = b.endpoints[(int(from)+n)%len(b.endpoints)]
	return c
}

// noteEndpoint makes the endpoint that answered c the current one, and reports the
// switch if it is another one than from, which was tried first.
func (b *Backend) noteEndpoint(from int32, c Call) {
	n := int32(c.Copy % len(b.endpoints))
	to := (from + n) % int32(len(b.endpoints))
	if to == from || !b.current.CompareAndSwap(from, to) {
		return
	}
	ev := dcs.EndpointEvent{Backend: name, From: b.endpoints[from], To: b.endpoints[to], Reason: "no answer in time"}
	b.o.Logger.Info("memstore: switched endpoint", "from", ev.From, "to", ev.To, "reason", ev.Reason)
	if b.o.Observer.Endpoint != nil {
		b.o.Observer.Endpoint(ev)
	}
}

// result is the outcome of a request that may be sent twice.
type result[T any] struct {
	v              T
	sent           dcs.Instant // the sending of the copy whose answer counts (P1)
	nothingWritten bool        // with an error: no copy was applied or ever will be
}

// request sends c through one endpoint after the other until it is answered, by ctx's
// deadline. It may be used only for requests that may be sent twice (P13). These are
// reads, renewals, revocations, and a Grant whose id the client has chosen.
func request[T any](ctx context.Context, b *Backend, c Call, do func(*root) T) (result[T], error) {
	var last error
	a, from := result[T]{nothingWritten: true}, b.current.Load()
	for n := 0; ; n++ {
		c = b.address(c, from, n)
		a.sent = dcs.Now()
		one, cancel := context.WithTimeout(ctx, b.o.AttemptTimeout)
		v, err := send(one, b, c, do)
		cancel()
		if err == nil {
			b.noteEndpoint(from, c)
			a.v = v
			return a, nil
		}
		definite := errors.Is(err, attempt.ErrNotSent)
		a.nothingWritten = a.nothingWritten && definite
		if last == nil || ctx.Err() == nil {
			last = err
		}
		if (definite && dcs.KindOf(err) != nil) || !b.pause(ctx, n) {
			return a, b.unansweredError(ctx, last)
		}
	}
}

// pause waits before copy n+1, with jitter. It returns false if there is no time for
// another copy.
func (b *Backend) pause(ctx context.Context, n int) bool {
	t := time.NewTimer(backoff.Exponential{First: 5 * time.Millisecond, Most: 250 * time.Millisecond, Rand: b.random}.Delay(n))
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
	case <-b.done:
	}
	return false
}

// random returns a random number in [0, n).
func (b *Backend) random(n int64) int64 {
	var raw [8]byte
	if _, err := (lockedRand{b}).Read(raw[:]); err != nil {
		return n - 1
	}
	return int64(binary.LittleEndian.Uint64(raw[:]) % uint64(n))
}

// unansweredError returns the error of a call that no server answered.
func (b *Backend) unansweredError(ctx context.Context, last error) error {
	select {
	case <-b.done:
		return dcs.ErrClosed
	default:
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(last, cause) {
		return fmt.Errorf("%w: %w", cause, last)
	}
	return last
}

// fail returns err with its kind, or with ErrUnavailable if it has none, and with the
// operation and its key.
func (b *Backend) fail(op, key string, err error) error {
	e := &dcs.Error{Backend: name, Op: op, Key: key, Kind: dcs.ErrUnavailable, Err: err}
	if kind := dcs.KindOf(err); kind != nil {
		e.Kind = kind
		if errors.Is(kind, err) {
			e.Err = nil
		}
	}
	return e
}

// raiseMinRevision raises the client's minimum revision to rev. It returns false if rev
// is below the minimum.
func (b *Backend) raiseMinRevision(rev dcs.Revision) bool {
	for {
		seen := b.minRevision.Load()
		if uint64(rev) < seen {
			return false
		}
		if b.minRevision.CompareAndSwap(seen, uint64(rev)) {
			return true
		}
	}
}
