package backend

import (
	"context"
	"strings"
	"testing"

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
