package zookeeper

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/attempt"
	"github.com/holdfast-dcs/holdfast/internal/backend"
)

// unconnected returns a session without the library, and a function that
// connects it.
func unconnected(t *testing.T) (s *session, connect func(w *trackedConn)) {
	b := &Backend{c: Config{Timing: dcs.Timing{RetryTimeout: 5 * time.Second}}}
	var end context.CancelFunc
	b.life, end = context.WithCancel(context.Background())
	t.Cleanup(end)
	s = &session{b: b, done: make(chan struct{}), gone: make(chan struct{}), change: make(chan struct{})}
	return s, func(w *trackedConn) {
		_, addr, err := s.wanted()
		require.NoError(t, err)
		require.Equal(t, w.addr, addr)
		s.mu.Lock()
		s.next = w
		s.mu.Unlock()
		s.event(zk.Event{Type: zk.EventSession, State: zk.StateHasSession})
	}
}

// A connection that breaks between the grant and the return of the call that
// waits for it is a failure of that server. No request was sent.
func TestConnectionBreaksBeforeItsWaiter(t *testing.T) {
	s, connect := unconnected(t)
	type result struct {
		w   *trackedConn
		err error
	}
	unseen := 0
	for range 100 {
		got := make(chan result, 1)
		go func() {
			w, err := s.at(t.Context(), "a")
			got <- result{w, err}
		}()
		w, _ := piped(t, false)
		w.addr = "a"
		connect(w)
		w.failed(io.ErrUnexpectedEOF)
		s.event(zk.Event{Type: zk.EventSession, State: zk.StateDisconnected})
		r := <-got
		if r.w != nil {
			continue // the call returned before the break
		}
		unseen++
		require.ErrorIs(t, r.err, io.ErrUnexpectedEOF)
		require.ErrorIs(t, r.err, attempt.ErrNotSent)
		var f *backend.Failure
		require.ErrorAs(t, r.err, &f)
		require.Equal(t, "a", f.Endpoint)
		require.True(t, f.Blame)
	}
	require.NotZero(t, unseen)
}

// A call at one server does not get the failure of another server.
func TestFaultIsOfTheServerThatWasWanted(t *testing.T) {
	s, connect := unconnected(t)
	at := func(addr string) (*trackedConn, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		return s.at(ctx, addr)
	}
	go func() {
		_, addr, _ := s.wanted()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.missed(addr, io.ErrNoProgress)
	}()
	_, err := at("a")
	require.ErrorIs(t, err, io.ErrNoProgress)

	w, _ := piped(t, false)
	w.addr = "b"
	go func() {
		connect(w)
		s.cut(w)
	}()
	if got, err := at("b"); got == nil {
		require.ErrorIs(t, err, errBroken)
		require.NotErrorIs(t, err, io.ErrNoProgress)
	}
}
