package zookeeper

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
)

// A server at which a session is resumed may grant another timeout. A shorter
// one takes effect at once (P3), and a longer one when a renewal is proven
// there. The first write on a connection proves that the session was renewed when
// the connection requested it (P2).
func TestSessionTimeIsThatOfTheConnection(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		const tick = 100 * time.Millisecond
		b := &Backend{c: Config{Tick: tick}}
		l := &lease{b: b, s: &session{b: b}, ttl: 10 * time.Second, wake: make(chan struct{}, 1)}
		renewed := func(w *trackedConn) dcs.Renewal {
			l.s.live = w
			sent := dcs.Now()
			time.Sleep(time.Millisecond)
			l.wrote(w, sent)
			return l.renewal()
		}
		at := func(timeout time.Duration) *trackedConn {
			w := &trackedConn{sent: dcs.Now(), granted: granted{id: 1, timeout: timeout}}
			time.Sleep(time.Millisecond)
			return w
		}

		first := at(10 * time.Second)
		renewed(first)
		time.Sleep(2 * tick)
		before := renewed(first)
		require.Equal(t, 10*time.Second, before.TTL)
		require.False(t, before.From.IsZero(), "the first write is proven")

		second := at(4 * time.Second)
		r := renewed(second)
		require.Equal(t, 4*time.Second, r.TTL)
		require.Equal(t, second.sent, r.From)
		time.Sleep(tick / 2)
		r = renewed(second)
		require.Equal(t, second.sent, r.From, "the first write is not proven within a tick")
		time.Sleep(2 * tick)
		require.True(t, second.sent.Before(renewed(second).From))

		third := at(20 * time.Second)
		sent := dcs.Now()
		l.wrote(third, sent)
		require.Equal(t, 4*time.Second, l.renewal().TTL, "the write was not answered on this connection")
		require.True(t, l.renewal().From.Before(third.sent))
		r = renewed(third)
		require.Equal(t, 20*time.Second, r.TTL)
		require.Equal(t, third.sent, r.From)
	})
}
