package zookeeper

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// A server at which a session is resumed may grant another timeout. A shorter
// one takes effect at once (P3), and a longer one when a renewal is proven
// there.
func TestSessionTimeIsThatOfTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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
			return &trackedConn{granted: granted{id: 1, timeout: timeout}}
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
		require.Equal(t, before.From, r.From, "nothing is proven on the new connection")

		third := at(20 * time.Second)
		require.Equal(t, 4*time.Second, renewed(third).TTL, "nothing is proven on the new connection")
		time.Sleep(2 * tick)
		r = renewed(third)
		require.Equal(t, 20*time.Second, r.TTL)
		require.True(t, before.From.Before(r.From))
	})
}
