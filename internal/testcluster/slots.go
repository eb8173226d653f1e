package testcluster

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// SilentServer returns the address of a server that accepts connections and never answers.
func SilentServer(tb testing.TB) string {
	tb.Helper()
	l, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	tb.Cleanup(func() { l.Close() })
	return l.Addr().String() // the kernel accepts
}

// TestOneSlot requires that b, whose only server is a [SilentServer], was made with one slot
// for Commits. A Commit that has the slot keeps it until its deadline, so that others with
// earlier deadlines wait in vain.
func TestOneSlot(t *testing.T, b dcs.Backend) {
	t.Helper()
	var all sync.WaitGroup
	errs := make(chan error, 6) // fewer than the slots that there are by default
	for i := range cap(errs) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second-time.Duration(i)*200*time.Millisecond)
		defer cancel()
		all.Go(func() {
			_, err := b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
			errs <- err
		})
	}
	all.Wait()
	close(errs)
	busy := 0
	for err := range errs {
		require.ErrorIs(t, err, dcs.ErrUnavailable)
		if strings.Contains(err.Error(), "each of the 1 slots is busy") {
			busy++
		}
	}
	require.Positive(t, busy)
}
