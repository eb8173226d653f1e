package consul

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hashicorp/consul/api"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
)

// refuse makes an agent answer every request with a status, except for the reads on a new
// connection.
func (f *fakeAgent) refuse(code int, body, retryAfter string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.serve, f.refusals = nil, nil
	if code != http.StatusOK {
		f.serve = func(w http.ResponseWriter, _ *http.Request) {
			f.mu.Lock()
			f.refusals = append(f.refusals, time.Now())
			f.mu.Unlock()
			if retryAfter != "" {
				w.Header().Set("Retry-After", retryAfter)
			}
			w.WriteHeader(code)
			_, _ = io.WriteString(w, body)
		}
	}
}

// decided is a client that records the decisions about agents.
func decided(t *testing.T, agents ...*fakeAgent) (*Backend, func(change dcs.EndpointChange) int) {
	t.Helper()
	var mu sync.Mutex
	var events []dcs.EndpointEvent
	b := fakeClient(t, func(c *Config) {
		c.Observer.Endpoint = func(ev dcs.EndpointEvent) {
			mu.Lock()
			defer mu.Unlock()
			events = append(events, ev)
		}
	}, agents...)
	return b, func(change dcs.EndpointChange) (n int) {
		mu.Lock()
		defer mu.Unlock()
		for _, ev := range events {
			if ev.Change == change {
				n++
			}
		}
		return n
	}
}

// A call succeeds although the token has not been replicated to one agent yet (consul
// #15157).
func TestTokenThatOneAgentDoesNotKnow(t *testing.T) {
	t.Parallel()
	one, two := newFake(t), newFake(t)
	two.place = one.place
	b, _ := decided(t, one, two)
	for range 5 {
		one.refuse(http.StatusForbidden, "ACL not found", "")
		_, err := b.Snapshot(budget(t), "")
		require.NoError(t, err)
		_, _, err = b.Grant(budget(t), suiteTiming.TTL)
		require.NoError(t, err)
		one.refuse(http.StatusOK, "", "")
		two.refuse(http.StatusForbidden, "ACL not found", "")
		_, err = b.Snapshot(budget(t), "")
		require.NoError(t, err)
		two.refuse(http.StatusOK, "", "")
	}
}

// A token that no agent knows is refused at once, and no agent is ejected.
func TestTokenThatNoAgentKnows(t *testing.T) {
	t.Parallel()
	one, two := newFake(t), newFake(t)
	two.place = one.place
	b, count := decided(t, one, two)
	_, err := b.Snapshot(budget(t), "")
	require.NoError(t, err)
	one.refuse(http.StatusForbidden, "ACL not found", "")
	two.refuse(http.StatusForbidden, "ACL not found", "")
	for range 5 {
		begin := time.Now()
		_, err := b.Snapshot(budget(t), "")
		require.ErrorIs(t, err, dcs.ErrUnauthorized)
		_, _, err = b.Grant(budget(t), suiteTiming.TTL)
		require.ErrorIs(t, err, dcs.ErrUnauthorized)
		require.NotErrorIs(t, err, dcs.ErrAmbiguous, "every copy was refused")
		require.Less(t, time.Since(begin), suiteTiming.RetryTimeout/2)
	}
	require.Zero(t, count(dcs.Ejected))
}

// newConnections returns the number of connections on which the identity was read.
func newConnections(agents []*fakeAgent) (n int64) {
	for _, a := range agents {
		n += a.identities.Load()
	}
	return n
}

// refusalsOf returns the times of the requests that agents have refused, in order.
func refusalsOf(agents []*fakeAgent) (at []time.Time) {
	for _, a := range agents {
		a.mu.Lock()
		at = append(at, a.refusals...)
		a.mu.Unlock()
	}
	slices.SortFunc(at, time.Time.Compare)
	return at
}

// lastRefusal returns the time from which the pause of all agents counts, which is that of
// the agent whose last refusal is older.
func lastRefusal(agents []*fakeAgent) (last time.Time) {
	for _, a := range agents {
		if of := refusalsOf([]*fakeAgent{a}); last.IsZero() || of[len(of)-1].Before(last) {
			last = of[len(of)-1]
		}
	}
	return last
}

// While every agent refuses requests because there are too many, a Store sends at most
// one a second, and none before the time that the agents name. No agent is ejected.
func TestThrottledAgentsAreAskedOnceASecond(t *testing.T) {
	for name, row := range map[string]struct {
		code       int
		body       string
		retryAfter string
		pause      time.Duration // between a refusal and the next request
	}{
		"429": {http.StatusTooManyRequests, "rate limit exceeded, try again later or against a different server", "", time.Second},
		"503": {http.StatusServiceUnavailable, "busy", "3", 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			agents := []*fakeAgent{newFake(t), newFake(t)}
			agents[1].place = agents[0].place
			var ejected ejections
			b := fakeClient(t, func(c *Config) { c.Observer.Endpoint = ejected.note }, agents...)
			_, err := b.Snapshot(budget(t), "")
			require.NoError(t, err)
			_, err = b.Wait(budget(t), "k", 0) // the watch has its connection
			require.NoError(t, err)
			for _, a := range agents {
				a.refuse(row.code, row.body, row.retryAfter)
			}
			first, stop := context.WithTimeout(t.Context(), 2*time.Second)
			defer stop()
			_, err = b.Snapshot(first, "") // each agent has refused
			require.ErrorIs(t, err, dcs.ErrUnavailable)
			require.ErrorContains(t, err, row.body)
			require.True(t, b.pool.IsThrottled())

			since, before, connections := lastRefusal(agents), len(refusalsOf(agents)), newConnections(agents)
			calling, end := context.WithTimeout(t.Context(), 3*time.Second)
			defer end()
			testcluster.StartRefused(calling, t,
				func() error { _, err := b.Get(calling, "k"); return err },
				func() error { _, err := b.Wait(calling, "k", 8); return err },
				func() error { _, err := (&lease{b, "s", suiteTiming.TTL}).Renew(calling, "k"); return err },
			).Wait()
			at, dialled := refusalsOf(agents)[before:], newConnections(agents)-connections
			t.Logf("%d requests, %d new connections", len(at), dialled)
			require.NotEmpty(t, at)
			require.GreaterOrEqual(t, at[0].Sub(since), row.pause)
			require.LessOrEqual(t, len(at), 2+int(at[len(at)-1].Sub(at[0])/time.Second))
			require.LessOrEqual(t, dialled, int64(len(at)+1), "a request needs one connection at most, and the last one may not have been sent")
			require.Empty(t, ejected.hasty())
			for _, a := range agents {
				a.refuse(http.StatusOK, "", "")
			}
			long, cancel := context.WithTimeout(t.Context(), 2*suiteTiming.RetryTimeout)
			defer cancel()
			_, err = b.Snapshot(long, "")
			require.NoError(t, err)
		})
	}
}

// An agent at its limit on connections from one address is not ejected, its connections
// are kept, and the error names the limit.
func TestLimitOfConnectionsIsNamed(t *testing.T) {
	t.Parallel()
	a := newFake(t)
	b, count := decided(t, a)
	_, err := b.Snapshot(budget(t), "")
	require.NoError(t, err)
	a.refuse(http.StatusTooManyRequests, "Your IP is issuing too many concurrent connections, please rate limit your calls\n", "")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	_, err = b.Snapshot(ctx, "")
	require.ErrorContains(t, err, "http_max_conns_per_client")
	a.refuse(http.StatusOK, "", "")
	begin := time.Now()
	_, err = b.Snapshot(budget(t), "")
	require.NoError(t, err)
	require.Less(t, time.Since(begin), suiteTiming.RetryTimeout/2, "the open connections must be used again at once")
	require.Zero(t, count(dcs.Ejected))
}

// A request that waits in vain for one of the client's own connections blames no agent,
// and the error states the reason.
func TestWaitingForAConnectionIsNoSilence(t *testing.T) {
	t.Parallel()
	stuck := make(chan struct{})
	var held atomic.Int64
	slow := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { held.Add(1); <-stuck }))
	defer slow.Close()
	defer close(stuck)
	b := fakeClient(t, func(c *Config) {
		c.Endpoints = []string{strings.TrimPrefix(slow.URL, "http://")}
		c.Timing = dcs.Timing{TTL: time.Minute, LoopWait: 10 * time.Second, RetryTimeout: 20 * time.Second} // the connections last for half of that
	})
	c, err := b.connected(b.c.Endpoints[0])
	require.NoError(t, err)
	ask := func(ctx context.Context) error {
		_, err := call(ctx, c, func(ctx context.Context, token string) (struct{}, error) {
			_, _, err := c.api.KV().Get("k", (&api.QueryOptions{Token: token}).WithContext(ctx))
			return struct{}{}, err
		})
		return err
	}
	var busy sync.WaitGroup
	defer busy.Wait()
	long, end := context.WithCancel(t.Context())
	defer end()
	for range mostConns {
		busy.Go(func() { _ = ask(long) })
	}
	require.Eventually(t, func() bool { return held.Load() >= mostConns }, 8*time.Second, time.Millisecond)
	short, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err = ask(short)
	require.ErrorIs(t, err, errNoConn)
	require.ErrorIs(t, errNoConn, endpoint.ErrDials)
	var own interface{ Local() bool }
	require.ErrorAs(t, err, &own, "the Store logs no outage")
}

// An agent that closes new connections is not blamed, because an agent with TLS does
// so at its limit.
func TestClosedConnectionMayBeTheLimit(t *testing.T) {
	t.Parallel()
	agent := httptest.NewUnstartedServer(nil)
	agent.StartTLS()
	defer agent.Close()
	conf := agent.Client().Transport.(*http.Transport).TLSClientConfig //nolint:forcetypeassert // httptest's
	var ejected atomic.Int64
	b := fakeClient(t, func(c *Config) {
		c.Endpoints, c.TLS = []string{testcluster.ClosingServer(t)}, conf
		c.Observer.Endpoint = func(ev dcs.EndpointEvent) {
			if ev.Change == dcs.Ejected {
				ejected.Add(1)
			}
		}
	})
	_, err := b.Get(budget(t), "k")
	require.ErrorContains(t, err, "http_max_conns_per_client")
	require.Zero(t, ejected.Load())
}

// A connection that this client closes while a request is in flight, as when the store has
// got its identity, is no failure of the agent.
func TestOwnClosingBlamesNoAgent(t *testing.T) {
	t.Parallel()
	b := fakeClient(t, nil, newFake(t))
	c, err := b.connected(b.c.Endpoints[0])
	require.NoError(t, err)
	for _, left := range []bool{false, true} {
		v := backend.Judge(c.failed(t.Context(), &net.OpError{Op: "read", Err: net.ErrClosed}, left))
		require.True(t, v.Local)
		require.False(t, v.Blame)
		require.Equal(t, !left, v.Refused)
	}
}
