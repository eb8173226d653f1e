package backend

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/attempt"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
)

// A request takes no endpoint and no connection before the store is decided, although the
// decision takes longer than one of its copies may: the poll needs connections too, and no
// endpoint is to blame for the wait.
func TestRequestsWaitForTheDecision(t *testing.T) {
	for name, request := range map[string]func(ctx context.Context, p *endpoint.Pool, i *Identity, at func(addr string)) error{
		"call": func(ctx context.Context, p *endpoint.Pool, i *Identity, at func(addr string)) error {
			admitted := func(_ context.Context, addr string) (string, error) {
				at(addr)
				return addr, nil
			}
			_, err := Do(ctx, p, i, endpoint.Read, admitted, func(context.Context, string) (string, error) { return "", nil })
			return err
		},
		"commit": func(ctx context.Context, p *endpoint.Pool, i *Identity, at func(addr string)) error {
			_, err := Send(ctx, p, i, nil, attempt.Request{}, Anywhere, func(_ context.Context, addr string, _ dcs.LeaseID) (attempt.Answer, error) {
				at(addr)
				return attempt.Answer{}, nil
			})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			identify(t, map[string]string{"a": "x", "b": "x"}, func(t *testing.T, i *Identity, s *stores, _ *strings.Builder) {
				s.delay = identityBudget/2 - time.Millisecond // longer than a copy may take
				p := endpoint.New(endpoint.Options{Backend: "test", Seeds: i.Seeds, Budget: identityBudget, Judge: Judge})
				defer p.Close()
				require.Less(t, p.AttemptTimeout(endpoint.Write, identityBudget, 0), s.delay)
				ctx, cancel := context.WithTimeout(t.Context(), identityBudget)
				defer cancel()
				requests := 0
				require.NoError(t, request(ctx, p, i, func(string) {
					requests++
					require.Equal(t, "x", i.ID())
				}))
				require.Equal(t, 1, requests)
			})
		})
	}
}
