package consul

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
)

// connLimiter refuses connections like that of Consul (hashicorp/go-connlimit).
type connLimiter struct {
	mu      sync.Mutex
	most    int
	open    map[net.Conn]bool
	refused int
}

func (l *connLimiter) state(c net.Conn, state http.ConnState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case state == http.StateNew && len(l.open) >= l.most:
		l.refused++
		_ = c.SetDeadline(time.Now().Add(10 * time.Millisecond))
		_, _ = io.WriteString(c, limitPage+", please rate limit your calls\n")
		_ = c.Close()
	case state == http.StateNew:
		l.open[c] = true
	case state == http.StateClosed:
		delete(l.open, c)
	}
}

func (l *connLimiter) refusals() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.refused
}

func (l *connLimiter) set(most int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.most = most
}

// limitedFake returns an agent that serves a limited number of connections.
func limitedFake(t *testing.T, most int, tls bool) (*fakeAgent, *connLimiter) {
	f := unstartedFake()
	f.Server = httptest.NewUnstartedServer(f)
	l := &connLimiter{most: most, open: map[net.Conn]bool{}}
	f.Config.ConnState = l.state
	if tls {
		f.StartTLS()
	} else {
		f.Start()
	}
	t.Cleanup(f.Close)
	return f, l
}

// limitedClient returns a client of an agent with a limit. ejected returns the reasons
// for which the agent was ejected.
func limitedClient(t *testing.T, a *fakeAgent) (b *Backend, ejected func() []string) {
	var mu sync.Mutex
	var reasons []string
	b = fakeClient(t, func(c *Config) {
		c.Endpoints = []string{a.Listener.Addr().String()}
		if a.TLS != nil {
			c.TLS = a.Client().Transport.(*http.Transport).TLSClientConfig //nolint:forcetypeassert // httptest's
		}
		c.Observer.Endpoint = func(ev dcs.EndpointEvent) {
			mu.Lock()
			defer mu.Unlock()
			if ev.Change == dcs.Ejected {
				reasons = append(reasons, ev.Reason)
			}
		}
	})
	return b, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(reasons)
	}
}

// onlyLate requires that no agent was ejected, except for an answer that came late on a
// busy machine.
func onlyLate(t *testing.T, reasons []string) {
	t.Helper()
	for _, reason := range reasons {
		require.Contains(t, reason, "no answer within")
	}
}

// If an agent accepts fewer connections than a Store has requests, no call fails,
// renewals continue, and the agent is not ejected.
func TestStoreSharesItsConnectionsAtTheLimit(t *testing.T) {
	for _, most := range []int{1, 2, 5} {
		for _, tls := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d/tls=%v", most, tls), func(t *testing.T) {
				t.Parallel()
				a, l := limitedFake(t, most, tls)
				b, ejected := limitedClient(t, a)
				lease, _, err := b.Grant(budget(t), suiteTiming.TTL)
				require.NoError(t, err)
				var all sync.WaitGroup
				for range 2 * mostConns {
					all.Go(func() {
						for range 30 {
							if _, err := b.Snapshot(budget(t), ""); err != nil {
								t.Error(err)
							}
						}
					})
				}
				for range 10 {
					begin := time.Now()
					_, err := lease.Renew(budget(t), "leader")
					require.NoError(t, err)
					require.Less(t, time.Since(begin), suiteTiming.RetryTimeout/2)
				}
				all.Wait()
				require.Positive(t, l.refusals())
				require.Less(t, l.refusals(), 60, "further connections must be tried seldom")
				onlyLate(t, ejected())
			})
		}
	}
}

// The calls of a Store without a connection return an error that names the limit, and the
// agent is not ejected. Calls succeed as soon as the agent accepts a connection.
func TestStoreBeyondTheLimit(t *testing.T) {
	t.Parallel()
	for _, tls := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls=%v", tls), func(t *testing.T) {
			t.Parallel()
			a, l := limitedFake(t, 0, tls)
			b, ejected := limitedClient(t, a)
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			_, err := b.Snapshot(ctx, "")
			require.ErrorIs(t, err, dcs.ErrUnavailable)
			require.ErrorContains(t, err, "limits.http_max_conns_per_client")
			_, _, err = b.Grant(ctx, suiteTiming.TTL)
			require.NotErrorIs(t, err, dcs.ErrAmbiguous, "nothing was read")
			require.Less(t, l.refusals(), 15)
			l.set(1)
			_, err = b.Snapshot(budget(t), "")
			require.NoError(t, err)
			onlyLate(t, ejected())
		})
	}
}

// If all requests share one connection, a Wait returns a change in time, and a renewal
// does not wait for the Wait.
func TestWaitWithOneConnection(t *testing.T) {
	t.Parallel()
	a, _ := limitedFake(t, 1, false)
	var index atomic.Int64
	index.Store(100)
	tree := func(string) (int, []string) {
		now := int(index.Load())
		return now, []string{fmt.Sprint("t/", now)}
	}
	a.serves(tree, tree)
	b, ejected := limitedClient(t, a)
	s, err := b.Wait(budget(t), "", 0)
	require.NoError(t, err)
	for range 3 {
		index.Add(1)
		begin := time.Now()
		s, err = b.Wait(budget(t), "", s.Revision)
		require.NoError(t, err)
		require.Less(t, time.Since(begin), 2*time.Second)
		_, err = b.Snapshot(budget(t), "")
		require.NoError(t, err)
	}
	require.Empty(t, ejected())
}

// A request that is given up does not close the last connection of a Store, because
// another client of the same address would get it.
func TestGivenUpRequestCostsNoConnection(t *testing.T) {
	t.Parallel()
	a, l := limitedFake(t, 1, false)
	b, _ := limitedClient(t, a)
	_, err := b.Snapshot(budget(t), "")
	require.NoError(t, err)
	c, err := b.connected(b.Endpoints()[0])
	require.NoError(t, err)
	a.mu.Lock()
	a.slow["renew"] = 400 * time.Millisecond
	a.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = (&lease{b, "s", suiteTiming.TTL}).renew(ctx, c)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	l.set(0) // the agent accepts no other connection
	for range 10 {
		_, err = b.Snapshot(budget(t), "")
		require.NoError(t, err)
	}
}

// limitOfConnections runs Stores at one agent whose limit on connections is lower than
// the number of their requests. No lock is lost, no call fails, and the agent is not
// ejected. The calls of a Store without a connection return an error with the reason,
// until it gets one.
func limitOfConnections(t *testing.T, limit, count, rounds int, pause time.Duration) {
	c := testcluster.New(t, testcluster.Options{
		Kind: testcluster.Consul, Nodes: 1, Loopback: true,
		Flags: []string{"-hcl", fmt.Sprintf("limits { http_max_conns_per_client = %d }", limit)},
	})
	var ejected, failed atomic.Int64
	agent := c.Servers()[0].Direct() // the proxy would need a second connection for each
	open := func() *dcs.Store {
		b, err := New(Config{Endpoints: []string{agent}, Root: "limits", Node: "limits", Timing: suiteTiming, MinTTL: time.Second})
		require.NoError(t, err)
		store, err := dcs.New(b, dcs.Options{Timing: suiteTiming, Observer: dcs.Observer{Endpoint: func(ev dcs.EndpointEvent) {
			if ev.Change == dcs.Ejected {
				t.Log(ev)
				ejected.Add(1)
			}
		}}})
		require.NoError(t, err)
		t.Cleanup(func() { store.Close() })
		return store
	}
	var holds []*dcs.Hold
	var stores []*dcs.Store
	for i := range count {
		store := open()
		stores = append(stores, store)
		s, err := store.NewSession(budget(t), dcs.SessionOptions{})
		require.NoError(t, err)
		h, err := s.TryAcquire(budget(t), fmt.Sprint("lock-", i), nil)
		require.NoError(t, err)
		holds = append(holds, h)
	}
	var all, waits sync.WaitGroup
	waiting, stop := context.WithCancel(t.Context())
	defer stop()
	for _, store := range stores {
		waits.Go(func() {
			var err error
			for s := (dcs.Snapshot{}); err == nil; { // until the watch has its connection
				s, err = store.Wait(waiting, "", s.Revision)
			}
			if waiting.Err() == nil {
				failed.Add(1)
				t.Log(err)
			}
		})
		all.Go(func() {
			for range rounds {
				var calls sync.WaitGroup
				for range mostConns { // each wants a connection
					calls.Go(func() {
						if _, err := store.Snapshot(budget(t), ""); err != nil {
							failed.Add(1)
							t.Log(err)
						}
					})
				}
				calls.Wait()
				<-time.After(pause) // so that the agent is not overloaded
			}
		})
	}
	all.Wait()
	stop()
	waits.Wait()
	t.Logf("%d of %d calls failed", failed.Load(), count*mostConns*rounds)
	var occupied []net.Conn
	for range limit {
		nc, err := net.Dial("tcp", agent)
		require.NoError(t, err)
		occupied = append(occupied, nc)
	}
	late := open()
	_, err := late.Snapshot(budget(t), "")
	require.ErrorContains(t, err, "limits.http_max_conns_per_client")
	for _, h := range holds {
		require.True(t, h.Valid())
		require.NoError(t, h.Confirm(budget(t)))
	}
	for _, nc := range occupied {
		require.NoError(t, nc.Close())
	}
	for _, store := range stores[1:] {
		require.NoError(t, store.Close())
	}
	_, err = late.Snapshot(budget(t), "")
	require.NoError(t, err)
	require.Zero(t, ejected.Load())
	require.Zero(t, failed.Load(), "a Store with a connection must be served")
}

func TestLimitOfConnections(t *testing.T) {
	t.Parallel()
	limitOfConnections(t, 20, 5, 10, 50*time.Millisecond)
}

// The same holds with Consul's default limit.
func TestDefaultLimitOfConnections(t *testing.T) {
	if os.Getenv("HOLDFAST_PROFILE") != "slow" {
		t.Skip("runs in the slow profile only: it has 240 concurrent callers")
	}
	limitOfConnections(t, 200, 30, 30, 500*time.Millisecond)
}

// The page of the limit may reach a client before it has written its request, or after
// its write has failed. Both count as the refusal of a connection.
func TestPageOfTheLimit(t *testing.T) {
	page := limitPage + ", please rate limit your calls\n"
	for name, row := range map[string]struct {
		text    string
		refused bool
	}{
		"page":       {page, true},
		"other text": {strings.Replace(page, "Your IP", "Our IP", 1), false},
		"answer":     {"HTTP/1.1 200 OK\r\n", false},
		"too short":  {page[:30], false},
	} {
		t.Run(name, func(t *testing.T) {
			var s connShare
			server, client := net.Pipe()
			c := newHeardConn(client, &s, false)
			go func() {
				for _, b := range []byte(row.text) { // in pieces
					_, _ = server.Write([]byte{b})
				}
				_ = server.Close()
			}()
			_, err := c.Read(make([]byte, 4096))
			if row.refused {
				require.ErrorIs(t, err, errRefusedConn)
			} else {
				require.NotErrorIs(t, err, errConnections)
			}
			require.Equal(t, row.refused, s.isLimited())
			require.Zero(t, s.unheard)
			require.NoError(t, c.Close())
			require.Zero(t, s.open)
			_, _ = io.Copy(io.Discard, server)
		})
	}
}

// brokenConn is a connection that the other side has closed and that no goroutine reads.
type brokenConn struct{ net.Conn }

func (brokenConn) Write([]byte) (int, error) {
	return 0, &net.OpError{Op: "write", Err: os.NewSyscallError("write", syscall.EPIPE)}
}

func (brokenConn) Close() error { return nil }

// A failed write on a connection without an answer counts as the limit if TLS is used or
// another connection is served. Otherwise it blames the agent.
func TestFailedWriteMayBeTheLimit(t *testing.T) {
	for _, row := range []struct{ tls, served, limit bool }{{true, false, true}, {false, true, true}, {false, false, false}} {
		bubble.Test(t, func(t *testing.T) {
			var s connShare
			if row.served {
				s.dialled()
				s.heard(true)
			}
			c := newHeardConn(brokenConn{}, &s, row.tls)
			_, err := c.Write([]byte("GET"))
			require.ErrorIs(t, err, syscall.EPIPE)
			require.Equal(t, row.limit, errors.Is(err, errConnections))
			require.Equal(t, row.limit, s.isLimited())
			require.NoError(t, c.Close())
		})
	}
}
