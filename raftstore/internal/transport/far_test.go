package transport

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance/fault"
	"github.com/holdfast-dcs/holdfast/internal/backoff"
)

// far returns an address that reaches the one at addr over a round trip: of
// connecting, and of each answer.
func far(t *testing.T, addr string, roundTrip time.Duration) string {
	t.Helper()
	p, err := fault.NewProxy(context.Background(), "127.0.0.1:0", addr, fault.ProxyOptions{
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			backoff.Sleep(ctx, roundTrip)
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		},
	})
	require.NoError(t, err)
	t.Cleanup(func() { p.Close() })
	p.Delay(roundTrip)
	return p.Addr()
}

func TestDialTimeFollowsTheHeartbeat(t *testing.T) {
	for _, tc := range []struct {
		heartbeat, plain, secured time.Duration
	}{
		{50 * time.Millisecond, leastDial, leastDial},
		{300 * time.Millisecond, 900 * time.Millisecond, 1200 * time.Millisecond},
		{time.Second, 3 * time.Second, mostDial},
		{time.Minute, mostDial, mostDial},
	} {
		c := Options{HeartbeatTimeout: tc.heartbeat}
		require.Equal(t, tc.plain, dialTime(c), "%v", tc.heartbeat)
		c.TLS = &TLS{}
		require.Equal(t, tc.secured, dialTime(c), "%v with TLS", tc.heartbeat)
	}
}

// A node that Raft can follow can be called too: the dial has time for as many
// round trips as the heartbeat timeout leaves room for.
func TestCallsReachFarNodes(t *testing.T) {
	for _, heartbeat := range []time.Duration{300 * time.Millisecond, time.Second} {
		for _, roundTrip := range []time.Duration{0, 100 * time.Millisecond, 200 * time.Millisecond, 250 * time.Millisecond} {
			for _, secured := range []bool{false, true} {
				t.Run(fmt.Sprintf("heartbeat %v round trip %v tls %v", heartbeat, roundTrip, secured), func(t *testing.T) {
					edit := []func(*Options){func(c *Options) { c.HeartbeatTimeout = heartbeat }}
					if secured {
						edit = append(edit, newTestCA(t).secure(t))
					}
					a, b := startPair(t, edit...)
					t.Parallel()
					addr := far(t, b.Addr(), roundTrip)
					conn, err := a.dial(testContext(t), KindCall, addr)
					require.NoError(t, err)
					require.NoError(t, conn.Close())
					reply, err := a.Call(testContext(t), addr, 1, []byte("x"))
					require.NoError(t, err)
					require.Equal(t, "\x01x", string(reply))
				})
			}
		}
	}
}
