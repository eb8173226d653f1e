package remote

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backoff"
)

// Driver opens the URLs of a backend with servers: it is its [dcs.Driver].
type Driver[C any, B dcs.Backend] struct {
	// Options are those that Config reads.
	Options []dcs.Param
	// Config makes the settings of a URL, or names all its faults.
	Config func(u *dcs.URL, o dcs.Options) (C, error)
	// Client makes a client that the store has answered, so that a wrong
	// address, certificate or password is found at Open. See [Ready] for wait.
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
		return nil, err // and no nil of the type B
	}
	return b, nil
}

// Made returns the backend that make returns, again and again where wait says so
// and the reason for none is that something does not answer.
func Made[B any](ctx context.Context, t dcs.Timing, log *slog.Logger, wait bool, make func() (B, error)) (b B, err error) {
	log, _ = dcs.Detached(log, dcs.Observer{})
	err = Ready(ctx, t.WithDefaults(), log, wait, func(context.Context) error {
		b, err = make()
		return err
	})
	return b, err
}

// Opened is b once the store has answered question, as for [Ready]; else b is
// closed.
func Opened[B interface{ Close() error }](ctx context.Context, b B, t dcs.Timing, log *slog.Logger, wait bool, question func(ctx context.Context) error) (B, error) {
	if err := Ready(ctx, t, log, wait, question); err != nil {
		_ = b.Close() // the question's error is the one to tell
		var none B
		return none, err
	}
	return b, nil
}

// Ready asks the store one question, again and again where wait says so.
func Ready(ctx context.Context, t dcs.Timing, log *slog.Logger, wait bool, question func(ctx context.Context) error) error {
	for {
		one, cancel := context.WithTimeout(ctx, t.RetryTimeout)
		err := question(one)
		cancel()
		if err == nil || !wait || ctx.Err() != nil || errors.Is(err, dcs.ErrUnauthorized) || errors.Is(err, dcs.ErrInvalid) {
			return err
		}
		log.Warn("waiting for the store", "error", err)
		backoff.Sleep(ctx, min(t.LoopWait, time.Second))
	}
}
