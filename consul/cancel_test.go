package consul

import (
	"context"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A phase is a part of a request in which a test stops it.
type phase string

const (
	queueing  phase = "waiting for a connection"
	dialling  phase = "dialling"
	sent      phase = "request under way"
	answering phase = "reading the body"
)

// stopper stops the requests of a client with two agents in one phase.
type stopper struct {
	b      *Backend
	agents []*fakeAgent

	mu      sync.Mutex
	in      phase // "": requests go on
	reached chan struct{}
	resume  chan struct{}

	ejections ejections
}

func newStopper(t *testing.T) *stopper {
	s := &stopper{agents: copies(t, "x@dc1", "dc1", "dc1")}
	c := Config{Root: "t", MinTTL: time.Second, Timing: patient}
	for _, a := range s.agents {
		a.serve = s.serve
		c.Endpoints = append(c.Endpoints, a.addr())
	}
	c.Observer.Endpoint = s.ejections.note
	var err error
	s.b, err = newBackend(c, hooks{dialled: func(nc net.Conn) {
		if s.pass(t.Context(), dialling) {
			_ = nc.Close() // so that no later request uses it
		}
	}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.b.Close()) })
	return s
}

// pass waits if requests are stopped in the phase at, and reports whether they are.
func (s *stopper) pass(ctx context.Context, at phase) bool {
	s.mu.Lock()
	in, reached, resume := s.in, s.reached, s.resume
	s.mu.Unlock()
	if in != at {
		return false
	}
	select {
	case reached <- struct{}{}:
	default:
	}
	select {
	case <-resume:
	case <-ctx.Done():
	}
	return true
}

func (s *stopper) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Consul-Index", "7")
	if !r.URL.Query().Has("keys") { // the requests of the Pool go on
		s.pass(r.Context(), sent)
	}
	body := "[]"
	switch {
	case strings.HasPrefix(r.URL.Path, "/v1/session/renew/"):
		body = `[{"ID": "s"}]`
	case strings.HasPrefix(r.URL.Path, "/v1/session/destroy/"):
		body = "true"
	}
	_, _ = w.Write([]byte(body[:1]))
	if !r.URL.Query().Has("keys") {
		_ = http.NewResponseController(w).Flush()
		s.pass(r.Context(), answering)
	}
	_, _ = w.Write([]byte(body[1:]))
}

// stop stops later requests in a phase. reached receives when one was stopped.
func (s *stopper) stop(t *testing.T, in phase) (reached <-chan struct{}, resume func()) {
	s.mu.Lock()
	s.in, s.reached, s.resume = in, make(chan struct{}, 1), make(chan struct{})
	ready, done := s.reached, s.resume
	s.mu.Unlock()
	var occupied []*connShare
	for _, a := range s.agents {
		c, err := s.b.connected(a.addr())
		require.NoError(t, err)
		switch in {
		case dialling:
			c.calls.http.CloseIdleConnections()
		case queueing:
			occupied = append(occupied, &c.calls.share)
			for range mostConns {
				require.NoError(t, c.calls.share.acquire(whole(t), ordinary))
			}
		}
	}
	if in == queueing {
		go func() { // ends when a request waits, or with the phase
			for !queued(occupied) {
				select {
				case <-time.After(time.Millisecond):
				case <-done:
					return
				}
			}
			ready <- struct{}{}
		}()
	}
	return ready, func() {
		s.mu.Lock()
		s.in = ""
		s.mu.Unlock()
		close(done)
		for _, share := range occupied {
			for range mostConns {
				share.release(ordinary)
			}
		}
	}
}

// queued reports whether a request waits for a connection.
func queued(shares []*connShare) bool {
	for _, s := range shares {
		s.mu.Lock()
		n := len(s.waiting[ordinary])
		s.mu.Unlock()
		if n > 0 {
			return true
		}
	}
	return false
}

// A call that its caller cancels is no failure of an agent, in whichever phase its request
// is. Two failures in a row would eject the agent.
func TestCancelledCallIsNoFailure(t *testing.T) {
	calls := map[string]func(ctx context.Context, b *Backend) error{
		"Snapshot of a part": func(ctx context.Context, b *Backend) error { _, err := b.Snapshot(ctx, "k"); return err },
		"Snapshot":           func(ctx context.Context, b *Backend) error { _, err := b.Snapshot(ctx, ""); return err },
		"Revoke":             func(ctx context.Context, b *Backend) error { return (&lease{b, "s", patient.TTL}).Revoke(ctx) },
		"Renew": func(ctx context.Context, b *Backend) error {
			_, err := (&lease{b, "s", patient.TTL}).Renew(ctx, "k")
			return err
		},
	}
	for _, in := range []phase{queueing, dialling, sent, answering} {
		t.Run(strings.ReplaceAll(string(in), " ", "-"), func(t *testing.T) {
			t.Parallel()
			for name, call := range calls {
				if name == "Renew" && in == queueing {
					continue // renewals have connections of their own
				}
				s := newStopper(t)
				require.NoError(t, call(whole(t), s.b), name)
				for stopped := 0; stopped < 4; {
					reached, resume := s.stop(t, in)
					ctx, cancel := context.WithCancel(whole(t))
					answer := make(chan error, 1)
					go func() { answer <- call(ctx, s.b) }()
					select {
					case <-reached:
						cancel()
						if err := <-answer; err != nil {
							require.ErrorIs(t, err, context.Canceled, name)
							stopped++
						}
					case err := <-answer: // on a connection that was made in between
						require.NoError(t, err, name)
					}
					cancel()
					resume()
				}
				require.Empty(t, s.ejections.hasty(), name)
			}
		})
	}
}
