package zookeeper

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
)

// throttle makes the server refuse all requests because there are too many, or
// serve again.
func (f *fakeServer) throttle(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.throttled = on
}

// attempts returns the number of attempts since its last call. A read or a
// renewal begins with a transaction, and a watch with a connection. A read of the
// identity is not counted, because each is the first request on a connection.
func (f *fakeServer) attempts() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.requests[opMulti] + f.accepted
	clear(f.requests)
	f.accepted = 0
	return n
}

// While every server refuses requests because there are too many, a Store sends
// at most one a second, and no server is ejected. The error names the setting.
// Afterwards everything works again.
func TestThrottledServersAreAskedOnceASecond(t *testing.T) {
	t.Parallel()
	one, two := newFakeServer(t), newFakeServer(t)
	one.last, two.last = 1<<56, 2<<56
	servers := []*fakeServer{one, two}
	for _, f := range servers {
		f.put("/r", parentValue)
		f.put("/r/"+identityKey, []byte("x"))
	}
	var ejected atomic.Int64
	b := identityClient(t, func(c *Config) {
		c.Observer.Endpoint = func(ev dcs.EndpointEvent) {
			if ev.Change == dcs.Ejected && strings.Contains(ev.Reason, errThrottled.Error()) {
				ejected.Add(1)
			}
		}
	}, one.addr, two.addr)
	l, _, err := b.Grant(budget(t), suiteTiming.TTL)
	require.NoError(t, err)
	seen, err := b.Wait(budget(t), "", 0)
	require.NoError(t, err)

	for _, f := range servers {
		f.throttle(true)
	}
	refused, stop := context.WithCancel(budget(t))
	defer stop()
	go func() { _, _ = b.Get(refused, "k") }()
	require.Eventually(t, b.pool.IsThrottled, 5*time.Second, time.Millisecond, "each server has refused")
	stop()
	for _, f := range servers {
		f.attempts()
	}
	begin := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	callers := testcluster.StartRefused(ctx, t,
		func() error { _, err := b.Get(ctx, "k"); return err },
		func() error { _, err := b.Snapshot(ctx, ""); return err },
		func() error { _, err := b.Wait(ctx, "", seen.Revision); return err },
		func() error { _, err := l.Renew(ctx, "k"); return err },
	)
	_, err = b.Get(ctx, "k")
	require.ErrorIs(t, err, dcs.ErrUnavailable)
	require.ErrorContains(t, err, "zookeeper.throttled_op_wait_time")
	callers.Wait()
	asked := one.attempts() + two.attempts()
	// The watch and the lease may each have had a request on its way.
	require.LessOrEqual(t, asked, 3+int(time.Since(begin)/time.Second))
	require.NotZero(t, asked)
	t.Logf("%d requests", asked)
	require.Zero(t, ejected.Load())

	for _, f := range servers {
		f.throttle(false)
		f.put("/r/k", []byte("v"))
	}
	got, err := b.Snapshot(budget(t), "")
	require.NoError(t, err)
	require.Len(t, got.Entries, 1)
	seen, err = b.Wait(budget(t), "", seen.Revision)
	require.NoError(t, err)
	require.Len(t, seen.Entries, 1)
	_, err = l.Renew(budget(t), "k")
	require.NoError(t, err)
}

// A server that refuses a part of a Snapshot is asked again after its pause, and
// not at once.
func TestThrottledSnapshotIsNotRepeatedAtOnce(t *testing.T) {
	t.Parallel()
	f := newFakeServer(t)
	b := mirrored(t, f, 2)
	_, err := b.Snapshot(budget(t), "")
	require.NoError(t, err)
	f.mu.Lock()
	f.read = func() { f.throttled = !f.throttled } // of two requests, the second one
	f.mu.Unlock()
	f.attempts()
	begin := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, _ = b.Snapshot(ctx, "")
	require.LessOrEqual(t, f.attempts(), 2*(1+int(time.Since(begin)/time.Second)))
}
