package raftstore

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance/fault"
)

// far puts a round trip between n and the node at addr, and returns what n
// must dial.
func far(t *testing.T, n *network, addr string, roundTrip time.Duration) string {
	t.Helper()
	p, err := fault.NewProxy(t.Context(), "127.0.0.1:0", addr, fault.ProxyOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { p.Close() })
	p.Delay(roundTrip) // of each answer; connecting to the proxy takes none of it
	connect := n.dialer.Base.ControlContext
	n.dialer.Base.ControlContext = func(ctx context.Context, network, address string, c syscall.RawConn) error {
		pause(ctx, roundTrip)
		return connect(ctx, network, address, c)
	}
	return p.Addr()
}

func TestDialTimeFollowsTheHeartbeat(t *testing.T) {
	for _, tc := range []struct {
		heartbeat, plain, secured time.Duration
	}{
		{minTimeout, leastDial, leastDial},
		{300 * time.Millisecond, 900 * time.Millisecond, 1200 * time.Millisecond},
		{time.Second, 3 * time.Second, mostDial},
		{maxTimeout, mostDial, mostDial},
	} {
		c := Config{HeartbeatTimeout: tc.heartbeat, ElectionTimeout: maxTimeout}
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
					edit := []func(*Config){func(c *Config) { c.HeartbeatTimeout = heartbeat }}
					if secured {
						edit = append(edit, newTestCA(t).secure(t))
					}
					a, b := startPair(t, edit...)
					t.Parallel()
					addr := far(t, a, b.addr(), roundTrip)
					conn, err := a.dial(testContext(t), kindCall, addr)
					require.NoError(t, err)
					require.NoError(t, conn.Close())
					reply, err := a.call(testContext(t), addr, 1, []byte("x"))
					require.NoError(t, err)
					require.Equal(t, "\x01x", string(reply))
				})
			}
		}
	}
}
