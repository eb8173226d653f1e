package backend

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// The identity is written while a server is asked for it, which still had none. The server
// is asked again, and belongs to the store. A server that still has none does not.
func TestIdentityWrittenDuringItsReadIsReadAgain(t *testing.T) {
	for name, row := range map[string]struct{ again, refused string }{
		"written": {"x", ""},
		"none":    {"", "belongs to a store without an identity"},
	} {
		t.Run(name, func(t *testing.T) {
			identify(t, map[string]string{"a": "", "b": "", "c": ""}, func(t *testing.T, i *Identity, s *stores, _ *strings.Builder) {
				require.NoError(t, i.Check(t.Context(), "a", ""))
				require.Empty(t, i.ID())
				reads := 0
				id, err := i.Verify(t.Context(), "b", func(ctx context.Context) (string, error) {
					if reads++; reads > 1 {
						return row.again, nil
					}
					for _, at := range []string{"a", "b", "c"} {
						s.set(at, "x")
					}
					require.NoError(t, i.Check(ctx, "a", "x"))
					require.Equal(t, "x", i.ID())
					return "", nil
				})
				require.Equal(t, 2, reads)
				require.Equal(t, row.again, id)
				if row.refused == "" {
					require.NoError(t, err)
				} else {
					require.ErrorContains(t, err, row.refused)
				}
			})
		})
	}
}

// The identity is written and found while a server that had none before waits for a poll,
// and while that poll's answers are on their way. Neither is taken for the loss of the
// identity, and no server for one of another store.
func TestIdentityWrittenDuringAPoll(t *testing.T) {
	identify(t, map[string]string{"a": "", "b": "", "c": ""}, func(t *testing.T, i *Identity, s *stores, log *strings.Builder) {
		require.NoError(t, i.Check(t.Context(), "a", ""))
		s.mu.Lock()
		s.delay = i.pollTime() / 2
		s.mu.Unlock()
		i.requestPoll()
		answers, reads := []string{"", "x"}, 0
		verified := make(chan error, 3)
		go func() {
			_, err := i.Verify(t.Context(), "c", func(context.Context) (string, error) { reads++; return answers[reads-1], nil })
			verified <- err
		}()
		synctest.Wait()
		for _, at := range []string{"a", "b", "c"} {
			s.set(at, "x")
		}
		for _, at := range []string{"a", "b"} {
			go func() { verified <- i.Check(t.Context(), at, "x") }()
		}
		for range cap(verified) {
			require.NoError(t, <-verified)
		}
		require.Equal(t, 2, reads)
		time.Sleep(time.Minute)
		require.Equal(t, "x", i.ID())
		require.Empty(t, s.ejected)
		require.Empty(t, log.String())
	})
}
