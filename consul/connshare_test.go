package consul

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs/attempt"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
)

// limitedTo returns a share of n connections whose agent has just refused another one.
func limitedTo(n int) *connShare {
	s := &connShare{addr: "agent"}
	for range n {
		s.dialled()
		s.heard(true)
	}
	s.refused()
	return s
}

// request acquires a connection. The test releases it.
func request(ctx context.Context, s *connShare, u use) (admitted chan error) {
	admitted = make(chan error, 1)
	go func() { admitted <- s.acquire(ctx, u) }()
	synctest.Wait()
	return admitted
}

func waits(t *testing.T, admitted chan error) {
	t.Helper()
	select {
	case err := <-admitted:
		t.Fatal("the request must wait, but returned:", err)
	default:
	}
}

func admittedNow(t *testing.T, admitted chan error) {
	t.Helper()
	select {
	case err := <-admitted:
		require.NoError(t, err)
	default:
		t.Fatal("the request must not wait")
	}
}

// At the limit a renewal does not wait for other requests if there are at least two
// connections, and takes precedence over waiting ones if there is one.
func TestRenewalsGoFirst(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ctx := t.Context()
		s := limitedTo(2)
		admittedNow(t, request(ctx, s, ordinary))
		second := request(ctx, s, ordinary)
		waits(t, second)
		admittedNow(t, request(ctx, s, renewing))
		s.release(ordinary)
		synctest.Wait()
		admittedNow(t, second)

		s = limitedTo(1)
		admittedNow(t, request(ctx, s, ordinary))
		other := request(ctx, s, ordinary)
		renewal := request(ctx, s, renewing)
		waits(t, renewal)
		s.release(ordinary)
		synctest.Wait()
		admittedNow(t, renewal)
		waits(t, other)
		s.release(renewing)
		synctest.Wait()
		admittedNow(t, other)
	})
}

// Below the limit a renewal does not wait for other requests, however many there are,
// and may use their connections.
func TestRenewalsHaveConnections(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ctx := t.Context()
		s := &connShare{addr: "agent"}
		for range mostConns {
			admittedNow(t, request(ctx, s, ordinary))
		}
		next := request(ctx, s, ordinary)
		waits(t, next)
		for range renewalConns {
			admittedNow(t, request(ctx, s, renewing))
		}
		s.release(ordinary)
		synctest.Wait()
		admittedNow(t, next)
		for range renewalConns {
			s.release(renewing)
		}
		for range mostConns {
			s.release(ordinary)
		}
		for range mostConns + renewalConns {
			admittedNow(t, request(ctx, s, renewing))
		}
		waits(t, request(ctx, s, renewing))
	})
}

// At the limit a blocking query does not wait, and the tree is read without one.
func TestBlockingQueryDoesNotWaitAtTheLimit(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := limitedTo(1)
		s.queries = true
		require.NoError(t, s.acquire(t.Context(), ordinary))
		require.ErrorIs(t, s.acquire(t.Context(), ordinary), errConnections)
		require.False(t, s.keeps(), "a blocking query takes too long for its connection to be kept")
		time.Sleep(leastPause)
		require.NoError(t, s.acquire(t.Context(), ordinary))
	})
}

// A request that waits in vain returns an error with the reason. It wrote nothing and
// blames no agent.
func TestWaitAtTheLimitIsNobodysFault(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := limitedTo(1)
		require.NoError(t, s.acquire(t.Context(), ordinary))
		ctx, cancel := context.WithTimeout(t.Context(), leastPause/4)
		defer cancel()
		err := s.acquire(ctx, ordinary)
		require.ErrorIs(t, err, errConnections)
		require.ErrorIs(t, err, attempt.ErrNotSent)
		require.NotErrorIs(t, err, context.DeadlineExceeded, "a timeout would count as the agent's silence")
		require.True(t, backend.Judge(err).Local)
		require.Empty(t, s.waiting[ordinary])
	})
}

// Without a connection a request fails at once with the reason, and no connection is
// tried before the pause is over. Then a single request tries one.
func TestStoreWithoutAConnection(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := limitedTo(0)
		for range 5 {
			err := s.acquire(t.Context(), renewing)
			require.ErrorIs(t, err, errConnections)
			v := backend.Judge(err)
			require.False(t, v.Blame || v.Unreachable || v.Local)
			require.Positive(t, v.Busy)
			require.LessOrEqual(t, v.Busy, aloneFor)
			time.Sleep(v.Busy)
			admittedNow(t, request(t.Context(), s, renewing))
			other := request(t.Context(), s, ordinary)
			waits(t, other)
			s.refused()
			s.release(renewing)
			synctest.Wait()
			require.ErrorIs(t, <-other, errConnections)
		}
		time.Sleep(aloneFor)
		admittedNow(t, request(t.Context(), s, renewing))
		other := request(t.Context(), s, ordinary)
		s.dialled()
		s.heard(true)
		synctest.Wait()
		admittedNow(t, other)
	})
}

// Further connections are tried one at a time. While they are refused, they are tried
// seldom, and otherwise at once. The last one ends the limit.
func TestShareGrowsAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := limitedTo(1)
		require.NoError(t, s.acquire(t.Context(), ordinary))
		next := request(t.Context(), s, ordinary)
		tried := 0
		for began := time.Now(); time.Since(began) < time.Minute; {
			select {
			case err := <-next: // the agent accepts no other connection
				require.NoError(t, err)
				tried++
				s.refused()
				s.release(ordinary)
				next = request(t.Context(), s, ordinary)
			default:
				time.Sleep(50 * time.Millisecond)
			}
		}
		require.GreaterOrEqual(t, tried, 60/5)
		require.LessOrEqual(t, tried, 2*60/5+6)
		require.NoError(t, <-next)
		for n := 2; n < s.size(); n++ {
			u := ordinary
			if n >= mostConns {
				u = renewing
			}
			s.dialled()
			s.heard(true)
			require.True(t, s.isLimited())
			require.NoError(t, s.acquire(t.Context(), u), "at once")
			ctx, cancel := context.WithCancel(t.Context())
			waits(t, request(ctx, s, u))
			cancel()
			synctest.Wait()
		}
		s.dialled()
		s.heard(true)
		require.False(t, s.isLimited())
	})
}

// A request that is given up does not close the last connection, nor any connection at
// the limit.
func TestGivenUpRequestKeepsTheLastConnection(t *testing.T) {
	s := &connShare{addr: "agent"}
	for range 3 {
		s.dialled()
		s.heard(true)
	}
	require.False(t, s.keeps())
	require.False(t, s.keeps())
	require.True(t, s.keeps(), "the two other connections are ending")
	s.closed()
	s.ended()
	require.True(t, s.keeps())
	require.True(t, limitedTo(3).keeps())
}

// isLimited reports whether the agent has refused a connection.
func (s *connShare) isLimited() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.limited
}
