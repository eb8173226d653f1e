package backend

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/attempt"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
)

func TestLocalCausesAreRecognised(t *testing.T) {
	dial := func(n syscall.Errno) error {
		return &net.OpError{Op: "dial", Err: os.NewSyscallError("socket", n)}
	}
	for _, err := range []error{endpoint.ErrDials, dial(syscall.EMFILE), dial(syscall.ENFILE), dial(syscall.EADDRNOTAVAIL)} {
		require.True(t, IsLocal(err))
		require.True(t, IsLocalText(fmt.Sprintf("connection error: desc = %q", err.Error())), err)
	}
	require.False(t, IsLocal(dial(syscall.ECONNREFUSED)))
	require.False(t, IsLocalText(dial(syscall.ECONNREFUSED).Error()))
}

// A Store does not log an outage if calls fail for a cause of its own. It does if no request
// is sent because the store is in doubt, which is no server's fault either.
func TestOwnCauseIsNoOutage(t *testing.T) {
	dial := &net.OpError{Op: "dial", Err: os.NewSyscallError("socket", syscall.EMFILE)}
	doubtful := &Identity{}
	doubtful.suspect.Store(true)
	doubtful.history = history{foreignSince: dcs.Now(), filled: dcs.Now(), reason: errors.New("another store")}
	for name, row := range map[string]struct {
		err    error
		outage bool
	}{
		"descriptors":          {err: OwnCause("a", dial)},
		"dials":                {err: OwnCause("a", endpoint.ErrDials)},
		"connections":          {err: OwnCause("a", fmt.Errorf("no connection was free: %w", endpoint.ErrDials))},
		"streams":              {err: OwnCause("a", errors.New("no stream was free"))},
		"the store in doubt":   {err: doubtful.admit("a"), outage: true},
		"a given-up stream":    {err: &Failure{Endpoint: "a", Local: true, Refused: true, Err: errors.New("given up")}, outage: true},
		"a server that is off": {err: &Failure{Endpoint: "a", Unreachable: true, Refused: true, Err: syscall.ECONNREFUSED}, outage: true},
	} {
		for method, call := range map[string]func(ctx context.Context, s *dcs.Store) error{
			"Get": func(ctx context.Context, s *dcs.Store) error { _, err := s.Get(ctx, "k"); return err },
			"Commit": func(ctx context.Context, s *dcs.Store) error {
				_, err := s.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
				return err
			},
		} {
			t.Run(name+"/"+method, func(t *testing.T) {
				bubble.Test(t, func(t *testing.T) {
					var log bytes.Buffer
					store, err := dcs.New(newFailing(row.err), dcs.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
					require.NoError(t, err)
					require.ErrorIs(t, call(t.Context(), store), dcs.ErrUnavailable)
					require.NoError(t, store.Close()) // the records are delivered
					require.Equal(t, row.outage, bytes.Contains(log.Bytes(), []byte("the store does not answer")), "%s", &log)
				})
			})
		}
	}
}

// failing is a Backend of which every copy of a call fails with err.
type failing struct {
	dcs.Backend

	pool    *endpoint.Pool
	commits *attempt.Committer
	err     error
}

func newFailing(err error) *failing {
	p := endpoint.New(endpoint.Options{Backend: "test", Seeds: []string{"a", "b"}, Budget: 3 * time.Second, Judge: Judge})
	b := &failing{pool: p, err: err}
	b.commits = attempt.New(b, CommitOptions(p, attempt.Options{Backend: "test"}))
	return b
}

func (b *failing) Name() string   { return "test" }
func (b *failing) Caps() dcs.Caps { return dcs.Caps{} }

func (b *failing) Close() error {
	err := b.commits.Close()
	b.pool.Close()
	return err
}

func (b *failing) Get(ctx context.Context, key string) (dcs.Entry, error) {
	_, err := DoAt(ctx, b.pool, decidedIdentity(), endpoint.Read, func() string { return "" }, func(context.Context, string) (struct{}, error) {
		return struct{}{}, b.err
	})
	return dcs.Entry{}, WrapError("test", "Get", key, "", err)
}

func (b *failing) Commit(ctx context.Context, txn dcs.Txn) (dcs.Revision, error) {
	return b.commits.Commit(ctx, txn)
}

func (b *failing) Read(context.Context, ...string) ([]dcs.Entry, error) { return nil, b.err }

func (b *failing) Send(ctx context.Context, r attempt.Request) (attempt.Answer, error) {
	if r.Marker.Create {
		return attempt.Answer{Outcome: attempt.Applied, Revision: 1}, nil
	}
	return Send(ctx, b.pool, decidedIdentity(), nil, r, Anywhere, func(context.Context, string, dcs.LeaseID) (attempt.Answer, error) {
		return attempt.Answer{}, b.err
	})
}
