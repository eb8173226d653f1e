package endpoint

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
)

var errThrottled = errors.New("HTTP status 429")

// throttling starts a Pool whose servers refuse too many requests with "no leader".
func throttling(b *bench, after time.Duration, seeds ...string) *Pool {
	o := b.options(seeds...)
	o.Judge = func(err error) Verdict {
		v := judge(err)
		if errors.Is(err, errNoLeader) {
			v = Verdict{Refused: true, Doubt: true, Throttled: true, Busy: after, Reason: errThrottled.Error()}
		}
		return v
	}
	return started(o)
}

func (b *bench) setAll(mode string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.servers {
		s.mode = mode
	}
}

func (b *bench) allCalls() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.servers {
		n += s.calls
	}
	return n
}

// While every server refuses requests because there are too many, all calls together
// send one request a second and no server is ejected. They continue once the servers
// serve.
func TestThrottledStoreIsAskedOnceASecond(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBench("a", "b", "c")
		p := throttling(b, time.Second, "a", "b", "c")
		defer p.Close()
		time.Sleep(time.Second) // the first probes
		b.setAll("no leader")
		stop, cancel := context.WithCancel(t.Context())
		var callers sync.WaitGroup
		for range 20 {
			callers.Go(func() {
				for stop.Err() == nil {
					ctx, done := context.WithTimeout(stop, 3*time.Second)
					_, err := Do(ctx, p, Read, b.call)
					done()
					if stop.Err() == nil && err != nil && !errors.Is(err, context.DeadlineExceeded) {
						t.Error(err)
					}
				}
			})
		}
		time.Sleep(3 * time.Second) // every server has refused
		before := b.allCalls()
		time.Sleep(20 * time.Second)
		require.LessOrEqual(t, b.allCalls()-before, 21)
		require.GreaterOrEqual(t, b.allCalls()-before, 15)
		b.setAll("")
		time.Sleep(2200 * time.Millisecond)
		_, took, err := b.do(t, p, Read)
		require.NoError(t, err)
		require.LessOrEqual(t, took, 2*time.Millisecond)
		for _, n := range []string{"a", "b", "c"} {
			require.Zero(t, b.count(dcs.Ejected, n))
		}
		cancel()
		callers.Wait()
	})
}

// A call whose deadline comes before its turn to send reports the refusal.
func TestThrottledCallReportsTheRefusal(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBench("a")
		p := throttling(b, time.Hour, "a")
		defer p.Close()
		time.Sleep(time.Second)
		b.setAll("no leader")
		short := func() (Answer[string], error) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			return Do(ctx, p, Read, b.call)
		}
		_, err := short()
		require.ErrorIs(t, err, errNoLeader)
		before := b.allCalls()
		a, err := short()
		require.ErrorContains(t, err, "a: all servers refuse requests: "+errThrottled.Error())
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, before, b.allCalls(), "no request may be sent before the time that the server has named")
		require.Equal(t, "a", a.Endpoint)
		require.True(t, a.Clear, "the call was not sent and must be Clear")
	})
}

// While one server refuses requests, calls go to the others.
func TestThrottledServerIsAvoided(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBench("a", "b")
		b.leader = "a"
		p := throttling(b, time.Second, "a", "b")
		defer p.Close()
		time.Sleep(time.Second)
		b.set("a", "no leader")
		before := b.calls("a")
		for range 50 {
			who, took, err := b.do(t, p, Read)
			require.NoError(t, err)
			require.Equal(t, "b", who)
			require.LessOrEqual(t, took, 2*time.Millisecond)
		}
		require.LessOrEqual(t, b.calls("a")-before, 2)
	})
}

// A server that is busy, for example at its limit of connections, is not at fault.
func TestBusyServerIsNotEjected(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBench("a", "b")
		b.leader = "a"
		o := b.options("a", "b")
		o.Judge = func(err error) Verdict {
			return Verdict{Refused: true, Busy: time.Second, Reason: err.Error()}
		}
		p := started(o)
		defer p.Close()
		time.Sleep(time.Second)
		b.set("a", "no leader")
		for range 500 {
			who, took, err := b.do(t, p, Read)
			require.NoError(t, err)
			require.Equal(t, "b", who)
			require.LessOrEqual(t, took, 2*time.Millisecond)
			time.Sleep(100 * time.Millisecond)
		}
		require.Zero(t, b.count(dcs.Ejected, "a"))
	})
}
