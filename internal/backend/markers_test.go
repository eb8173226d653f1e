package backend

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/attempt"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
)

// markerLease counts its calls.
type markerLease struct{ renewed, revoked atomic.Int64 }

func (*markerLease) ID() dcs.LeaseID { return "m" }

func (l *markerLease) Renew(context.Context, ...string) (dcs.Renewal, error) {
	l.renewed.Add(1)
	return dcs.Renewal{}, nil
}

func (l *markerLease) Revoke(context.Context) error {
	l.revoked.Add(1)
	return nil
}

// slowMarkers returns Markers whose Grant takes a second.
func slowMarkers(t *testing.T) (*Markers, *markerLease, *atomic.Int64) {
	l, grants := &markerLease{}, &atomic.Int64{}
	return &Markers{Budget: 10 * time.Second, Life: t.Context(), Grant: func(ctx context.Context, _ time.Duration) (dcs.Lease, error) {
		grants.Add(1)
		select {
		case <-time.After(time.Second):
			return l, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}}, l, grants
}

// A Commit that needs the lease waits for its Grant by its own context, and does not end the
// waiting of others.
func TestMarkersWaitByTheirOwnContext(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		m, l, grants := slowMarkers(t)
		first := make(chan error, 1)
		go func() {
			_, err := m.Lease(t.Context())
			first <- err
		}()
		synctest.Wait()
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := m.Lease(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, attempt.ErrNotSent)
		require.Equal(t, 100*time.Millisecond, time.Since(begin))
		require.NoError(t, <-first)
		id, err := m.Lease(t.Context())
		require.NoError(t, err)
		require.Equal(t, l.ID(), id)
		require.Equal(t, int64(1), grants.Load())
		time.Sleep(markerTTL)
		require.Positive(t, l.renewed.Load())
		m.Close()
		require.Equal(t, int64(1), l.revoked.Load())
	})
}

// A Commit that ends because no server grants a lease gets the servers' error.
func TestMarkersReportWhyNoLeaseIsGranted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		m := &Markers{Budget: 10 * time.Second, Life: t.Context(), Grant: func(ctx context.Context, _ time.Duration) (dcs.Lease, error) {
			<-ctx.Done()
			return nil, &Failure{Endpoint: "a", Kind: dcs.ErrUnauthorized, Err: ctx.Err()}
		}}
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := m.Lease(ctx)
		var f *Failure
		require.ErrorAs(t, err, &f)
		require.Equal(t, dcs.ErrUnauthorized, f.Kind)
		require.Equal(t, time.Second, time.Since(begin))
	})
}

// lateContext is a context whose deadline passes a moment before it ends.
type lateContext struct {
	context.Context //nolint:containedctx // it stands for one
	deadline        time.Time
}

func (c lateContext) Deadline() (time.Time, bool) { return c.deadline, true }

// A Commit gets the reason of the last Grant that had time for an answer, also if that ends
// a moment before the Commit's own context.
func TestMarkersReturnTheReasonAtTheDeadline(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		m := &Markers{Budget: 10 * time.Second, Life: t.Context(), Grant: func(ctx context.Context, _ time.Duration) (dcs.Lease, error) {
			deadline, _ := ctx.Deadline()
			left := time.Until(deadline)
			<-ctx.Done()
			if left < 10*time.Millisecond {
				return nil, ctx.Err()
			}
			return nil, &Failure{Endpoint: "a", Kind: dcs.ErrUnauthorized, Err: ctx.Err()}
		}}
		begin := time.Now()
		var waiting sync.WaitGroup
		for _, limit := range []time.Duration{time.Second, 1001 * time.Millisecond} {
			waiting.Go(func() {
				_, err := m.Lease(lateContext{t.Context(), begin.Add(limit)})
				require.Equal(t, dcs.ErrUnauthorized, dcs.KindOf(err), "the one with %v", limit)
				require.ErrorIs(t, err, attempt.ErrNotSent)
				require.Equal(t, limit, time.Since(begin))
			})
			synctest.Wait() // the first one begins the Grant
		}
		waiting.Wait()
	})
}

// A lease that is granted while the store is closed is revoked.
func TestMarkersGrantedAfterClose(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		m, l, _ := slowMarkers(t)
		go func() { _, _ = m.Lease(t.Context()) }()
		synctest.Wait()
		begin := time.Now()
		m.Close()
		require.Zero(t, time.Since(begin), "Close waits for no Grant")
		time.Sleep(2 * time.Second)
		require.Equal(t, int64(1), l.revoked.Load())
		_, err := m.Lease(t.Context())
		require.ErrorIs(t, err, dcs.ErrClosed)
	})
}
