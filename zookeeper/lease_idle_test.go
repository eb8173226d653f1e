package zookeeper

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// idleTiming makes leases idle soon.
var idleTiming = dcs.Timing{TTL: 400 * time.Millisecond, LoopWait: 100 * time.Millisecond, RetryTimeout: 150 * time.Millisecond}

// Leases that were lost in an outage leave nothing behind, though their holders
// neither renew nor revoke them any more: no session, no goroutine, and no
// session at the servers, which would keep their keys for longer.
func TestLeasesLostInAnOutageLeaveNothing(t *testing.T) {
	f := newFakeServer(t)
	b, err := New(Config{
		Endpoints: []string{f.addr}, Root: "r", Timing: idleTiming,
		Tick: 10 * time.Millisecond, MinTTL: 20 * time.Millisecond, MaxTTL: time.Minute,
	})
	require.NoError(t, err)
	defer b.Close()
	leases := func() int {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.leases)
	}
	within := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), idleTiming.RetryTimeout)
		t.Cleanup(cancel)
		return ctx
	}
	grant := func() dcs.Lease {
		var l dcs.Lease
		require.Eventually(t, func() bool {
			var err error
			l, _, err = b.Grant(within(), idleTiming.TTL)
			return err == nil
		}, 10*time.Second, 10*time.Millisecond)
		return l
	}
	baseline := 0
	for outage := range 3 {
		var lost []dcs.Lease
		for range 10 {
			lost = append(lost, grant())
		}
		require.GreaterOrEqual(t, leases(), 10)
		f.stop()
		_, err := lost[0].Renew(within())
		require.ErrorIs(t, err, dcs.ErrUnavailable)
		<-time.After(2 * idleTiming.TTL) // its keys may be gone
		f.start()
		require.Eventually(t, func() bool { return leases() == 0 }, 20*time.Second, 10*time.Millisecond)
		for _, l := range lost {
			_, err := l.Renew(within())
			require.ErrorIs(t, err, dcs.ErrLost)
		}
		require.Eventually(t, func() bool {
			if outage == 0 {
				baseline = runtime.NumGoroutine()
				return true
			}
			return runtime.NumGoroutine() <= baseline+5
		}, 20*time.Second, 10*time.Millisecond)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	require.GreaterOrEqual(t, f.ended, 30)
}

// A lease that is renewed is not idle, however long a renewal takes, and a
// lease that is being ended confirms nothing.
func TestRenewedLeaseIsNotIdle(t *testing.T) {
	l := &lease{b: &Backend{c: Config{Tick: 10 * time.Millisecond, Timing: idleTiming}}, s: &session{}, ttl: time.Second}
	old := dcs.Now().Add(-time.Hour)
	l.lastRenew = old
	require.NoError(t, l.begin())
	l.lastRenew = old
	_, ending := l.expire()
	require.False(t, ending, "a Renew is under way")
	l.finish()
	after, ending := l.expire()
	require.False(t, ending, "a Renew was answered a moment ago")
	require.Greater(t, after, l.ttl)
	l.lastRenew = old
	_, ending = l.expire()
	require.True(t, ending)
	require.ErrorIs(t, l.begin(), errIdle, "it is not known whether the keys are gone")
}
