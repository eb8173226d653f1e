package zookeeper

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
)

// canceler cancels a call when the call reaches a stage, and blocks it there.
type canceler struct {
	mu    sync.Mutex
	stage string
	cut   func()
	held  chan struct{} // closed when the stage may go on
}

// arm prepares the next call.
func (c *canceler) arm(stage string, cut func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stage, c.cut, c.held = stage, cut, make(chan struct{})
}

// lift lets the stage go on. It reports whether a call had reached the stage.
func (c *canceler) lift() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.held)
	return c.stage == ""
}

// reached cancels the call if stage is the one that was armed.
func (c *canceler) reached(stage string) {
	c.mu.Lock()
	held := c.held
	if c.stage != stage {
		c.mu.Unlock()
		return
	}
	c.stage = ""
	c.cut()
	c.mu.Unlock()
	<-held
}

// staged returns a client of a server whose calls stop at the stages.
func staged(t *testing.T, f *fakeServer, stages *canceler) *Backend {
	front, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { front.Close() })
	go func() { // until the listener is closed
		for {
			c, err := front.Accept()
			if err != nil {
				return
			}
			go func() {
				stages.reached("handshake")
				f.mu.Lock()
				f.conns[c] = true
				f.mu.Unlock()
				f.serve(c)
			}()
		}
	}()
	probed := make(chan struct{})
	over := sync.OnceFunc(func() { close(probed) })
	b, err := newBackend(Config{
		Endpoints: []string{front.Addr().String()}, Root: "r", Timing: suiteTiming,
		Tick: 2 * time.Second, MinTTL: 4 * time.Second, MaxTTL: time.Minute,
	}, hooks{
		dialled: func(net.Conn) { stages.reached("dialling") },
		intercept: func(ctx context.Context, r request, s *session, send func(*zk.Conn) error) error {
			if r.op != "Probe" {
				stages.reached("request")
				return sendOnce(ctx, r, s, send)
			}
			defer over()
			return sendOnce(ctx, r, s, send)
		},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	<-probed // the Pool's own first request
	return b
}

// A caller that gives up is no fault of a server at any stage of a request. The
// calls are judged by a Pool whose attempts have no timeouts, because
// those count as silence.
func TestOwnCancellationBlamesNoServer(t *testing.T) {
	for _, stage := range []string{"dialling", "handshake", "request"} {
		t.Run(stage, func(t *testing.T) {
			f := newFakeServer(t)
			var stages canceler
			b := staged(t, f, &stages)
			addr := b.c.Endpoints[0]
			granted, _, err := b.Grant(budget(t), suiteTiming.TTL)
			require.NoError(t, err)
			l := granted.(*lease)
			ejections := make(chan string, 10)
			pool := endpoint.New(endpoint.Options{
				Backend: backendName, Seeds: b.c.Endpoints, Budget: time.Hour, AttemptFloor: time.Hour, Judge: backend.Judge,
				Observer: func(ev dcs.EndpointEvent) { ejections <- ev.Reason },
			})
			defer pool.Close()
			for name, call := range map[string]func(ctx context.Context, addr string) error{
				"Get": func(ctx context.Context, addr string) error {
					_, _, err := through(ctx, b, addr, request{op: "Get"}, askQuorum)
					return err
				},
				"Renew": func(ctx context.Context, addr string) error { _, err := l.confirmed(ctx, addr, nil); return err },
				"Grant": func(ctx context.Context, addr string) error {
					_, err := b.grant(ctx, addr, suiteTiming.TTL, sessionOptions{quiet: true})
					return err
				},
			} {
				for range 3 {
					if stage != "request" {
						require.Eventually(t, func() bool {
							f.disconnect()
							s, err := b.link(addr)
							return err == nil && s.where() == "" && l.s.where() == ""
						}, time.Minute, time.Millisecond)
					}
					ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
					stages.arm(stage, cancel)
					_, err := endpoint.Do(ctx, pool, endpoint.Write, func(ctx context.Context, addr string) (struct{}, error) {
						return struct{}{}, call(ctx, addr)
					})
					require.ErrorIs(t, err, context.Canceled, name)
					require.True(t, stages.lift(), name)
				}
			}
			require.Empty(t, ejections)
			pool.Blame(addr, "the first failure")
			pool.Blame(addr, "the second failure")
			require.Equal(t, "the second failure", <-ejections)
		})
	}
}

// disconnect closes every connection. Others are accepted.
func (f *fakeServer) disconnect() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.conns {
		c.Close()
	}
}

// The same for a call that waits for a connection which nothing has begun to
// make.
func TestCancellationWhileWaitingForAConnection(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s, _ := unconnected(t)
		var ejected []string
		pool := endpoint.New(endpoint.Options{
			Backend: backendName, Seeds: []string{"a"}, Judge: backend.Judge,
			Observer: func(ev dcs.EndpointEvent) {
				if ev.Change == dcs.Ejected {
					ejected = append(ejected, ev.Reason)
				}
			},
		})
		defer pool.Close()
		for range 3 {
			ctx, cancel := context.WithCancel(t.Context())
			a := pool.Pick(endpoint.Read)
			time.AfterFunc(time.Second, cancel)
			_, err := s.at(ctx, a.Endpoint())
			require.ErrorIs(t, err, context.Canceled)
			a.End(err)
		}
		require.Empty(t, ejected)
		pool.Blame("a", "the first failure")
		pool.Blame("a", "the second failure")
		require.Equal(t, []string{"the second failure"}, ejected)
	})
}

// A call that our own limit on dials delayed for most of its time is no fault of
// the server.
func TestLimitOnDialsBlamesNoServer(t *testing.T) {
	for name, row := range map[string]struct {
		after time.Duration // until the connection is begun
		local bool
	}{
		"never":            {time.Hour, true},
		"after most of it": {600 * time.Millisecond, true},
		"soon":             {400 * time.Millisecond, false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				s, _ := unconnected(t)
				time.AfterFunc(row.after, func() {
					s.mu.Lock()
					defer s.mu.Unlock()
					s.begun = dcs.Now()
				})
				go func() { _, _, _ = s.wanted() }()
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_, err := s.at(ctx, "a")
				require.Equal(t, []bool{row.local, !row.local}, []bool{backend.Judge(err).Local, backend.Judge(err).Blame})
				require.Equal(t, row.local, errors.Is(err, endpoint.ErrDials))
				var own interface{ Local() bool }
				require.Equal(t, row.local, errors.As(err, &own), "the Store logs no outage")
			})
		})
	}
}
