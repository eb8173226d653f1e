package backend

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backoff"
)

// Driver is the [dcs.Driver] of a backend whose store has servers.
type Driver[C any, B dcs.Backend] struct {
	// Options are the options that Config reads.
	Options []dcs.Param
	// Config returns the settings of a URL, or an error that lists all its faults.
	Config func(u *dcs.URL, o dcs.Options) (C, error)
	// Client returns a client after the store has answered it, so that a wrong address,
	// certificate or password is detected at Open. See [WaitReady] for wait.
	Client func(ctx context.Context, c C, wait bool) (B, error)
}

// Params implements [dcs.Driver].
func (d Driver[C, B]) Params() []dcs.Param { return d.Options }

// Open implements [dcs.Driver].
func (d Driver[C, B]) Open(ctx context.Context, u *dcs.URL, o dcs.Options) (dcs.Backend, error) {
	c, err := d.Config(u, o)
	if err != nil {
		return nil, err
	}
	b, err := d.Client(ctx, c, u.Params["wait"] == "true")
	if err != nil {
		return nil, err // without an interface around a nil B
	}
	return b, nil
}

// Connect returns the result of create after ready succeeds on it. If wait is set, it
// tries both again, as [WaitReady] does.
func Connect[B interface{ Close() error }](ctx context.Context, t dcs.Timing, log *slog.Logger, wait bool, create func() (B, error), ready func(b B, ctx context.Context) error) (B, error) {
	t = t.WithDefaults()
	log, _ = dcs.Detached(log, dcs.Observer{})
	var b B
	err := WaitReady(ctx, t, log, wait, func(context.Context) (err error) {
		b, err = create()
		return err
	})
	if err != nil {
		return b, err
	}
	return Open(ctx, b, t, log, wait, func(ctx context.Context) error { return ready(b, ctx) })
}

// Open returns b after probe succeeds, as for [WaitReady]. Otherwise it closes b.
func Open[B interface{ Close() error }](ctx context.Context, b B, t dcs.Timing, log *slog.Logger, wait bool, probe func(ctx context.Context) error) (B, error) {
	if err := WaitReady(ctx, t, log, wait, probe); err != nil {
		_ = b.Close() // the error of the probe is returned
		var none B
		return none, err
	}
	return b, nil
}

// WaitReady calls probe. If wait is set, it tries again until probe succeeds, ctx ends, or
// the error is ErrUnauthorized or ErrInvalid.
func WaitReady(ctx context.Context, t dcs.Timing, log *slog.Logger, wait bool, probe func(ctx context.Context) error) error {
	for {
		one, cancel := context.WithTimeout(ctx, t.RetryTimeout)
		err := probe(one)
		cancel()
		if err == nil || !wait || ctx.Err() != nil || errors.Is(err, dcs.ErrUnauthorized) || errors.Is(err, dcs.ErrInvalid) {
			return err
		}
		log.Warn("waiting for the store to answer", "error", err)
		backoff.Sleep(ctx, min(t.LoopWait, time.Second))
	}
}

// Readable returns nil if b reads a key. That the key is absent is an answer, too.
func Readable(ctx context.Context, b dcs.Backend) error {
	_, err := b.Get(ctx, "holdfast")
	if dcs.KindOf(err) == dcs.ErrNotFound { //nolint:errorlint // KindOf returns a sentinel
		return nil
	}
	return err
}
