package backend

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/internal/bubble"
	"github.com/stretchr/testify/require"
)

func TestFlight(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var f Flight[int]
		var calls atomic.Int64
		var result atomic.Int64
		ready := func() (int, bool) { v := result.Load(); return int(v), v > 0 }
		call := func(ctx context.Context) (int, error) {
			calls.Add(1)
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return 0, ctx.Err()
			}
			result.Store(7)
			return 7, nil
		}
		do := func(ctx context.Context, limit time.Duration) (int, error) {
			return f.Do(ctx, t.Context(), limit, ready, call)
		}

		short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := do(short, 10*time.Second)
		require.ErrorIs(t, err, context.DeadlineExceeded, "the caller leaves")
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				v, err := do(t.Context(), 10*time.Second)
				if v != 7 || err != nil {
					t.Error(v, err)
				}
			})
		}
		all.Wait()
		require.Equal(t, int64(1), calls.Load(), "the call goes on")
		_, err = do(t.Context(), time.Second)
		require.NoError(t, err)
		require.Equal(t, int64(1), calls.Load())

		result.Store(0)
		begin := time.Now()
		_, err = do(t.Context(), 500*time.Millisecond)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 500*time.Millisecond, time.Since(begin), "the limit of the call")
		_, err = do(t.Context(), 10*time.Second)
		require.NoError(t, err, "a failure is not kept")

		result.Store(0)
		life, end := context.WithCancelCause(t.Context())
		end(errors.New("closed"))
		_, err = f.Do(t.Context(), life, time.Second, ready, call)
		require.ErrorIs(t, err, context.Canceled)
	})
}
