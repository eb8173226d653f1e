package dcs

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dcs/holdfast/internal/bubble"
)

type endFunc func(error)

func (f *endFunc) end(reason error) { (*f)(reason) }

func TestClose(t *testing.T) {
	b := &scripted{closeErr: errors.New("stuck")}
	s, err := New(b, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var ended []error
	var stays, goes endFunc
	stays = func(reason error) {
		if b.closed.Load() != 0 {
			t.Error("the backend was closed before the Sessions had ended")
		}
		ended = append(ended, reason)
		s.unregister(&stays) // as a Session does
	}
	goes = func(error) { t.Error("ended after it was unregistered") }
	for _, e := range []*endFunc{&stays, &goes} {
		if err := s.register(e); err != nil {
			t.Fatal(err)
		}
	}
	s.unregister(&goes)
	first := s.Close()
	if KindOf(first) != ErrUnavailable || !strings.Contains(first.Error(), "stuck") {
		t.Errorf("Close: %v", first)
	}
	if again := s.Close(); any(again) != any(first) || b.closed.Load() != 1 {
		t.Errorf("a second Close: %v; the backend was closed %d times", again, b.closed.Load())
	}
	if len(ended) != 1 || KindOf(ended[0]) != ErrClosed {
		t.Errorf("ended with %v", ended)
	}
	if err := s.register(&goes); KindOf(err) != ErrClosed {
		t.Errorf("a closed Store registers: %v", err)
	}
	if s.life().Err() == nil {
		t.Error("the Store's life goes on")
	}
}

// A call that Close cuts short returns ErrClosed. A call that may have written something
// must be ErrAmbiguous as well.
func TestCloseUnderACall(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		cut := make(chan struct{})
		b := &scripted{}
		b.get = func(context.Context, string) (Entry, error) { <-cut; return Entry{}, errors.New("connection closed") }
		b.commit = func(context.Context, Txn) (Revision, error) { <-cut; return 0, errors.New("connection closed") }
		s := newStore(t, b, Options{})
		errs := make(chan error, 2)
		go func() { _, err := s.Get(t.Context(), "k"); errs <- err }()
		go func() { _, err := s.Commit(t.Context(), Txn{Then: []Write{Delete("k")}}); errs <- err }()
		synctest.Wait()
		_ = s.Close()
		close(cut)
		for range 2 {
			var e *Error
			if err := <-errs; !errors.As(err, &e) || !errors.Is(e, ErrClosed) || errors.Is(e, ErrAmbiguous) != (e.Op == "Commit") {
				t.Errorf("%v", err)
			}
		}
	})
}

func TestObserverSeesEveryCall(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var events []CallEvent
		b := &scriptedSettler{}
		answer := func(ctx context.Context, err error) error {
			time.Sleep(70 * time.Millisecond)
			AnsweredBy(ctx, "h1")
			AnsweredBy(ctx, "h2")
			return err
		}
		b.get = func(ctx context.Context, _ string) (Entry, error) { return Entry{}, answer(ctx, nil) }
		b.wait = func(ctx context.Context, _ string, _ Revision) (Snapshot, error) {
			return Snapshot{}, answer(ctx, ErrUnavailable)
		}
		b.snapshot = func(context.Context, string) (Snapshot, error) {
			time.Sleep(70 * time.Millisecond)
			return Snapshot{}, &Error{Endpoint: "h3", Kind: ErrUnauthorized}
		}
		s := newStore(t, b, Options{Observer: Observer{Call: func(e CallEvent) { events = append(events, e) }}})
		all := calls(s)
		for _, name := range []string{"Get", "Wait", "Snapshot", "Commit", "Grant", "Renew", "Revoke", "Settle"} {
			events = nil
			err := all[name](t.Context())
			synctest.Wait() // the event is delivered
			if len(events) != 1 {
				t.Errorf("%s: %d events", name, len(events))
				continue
			}
			e := events[0]
			endpoint, took := map[string]string{"Get": "h2", "Wait": "h2", "Snapshot": "h3"}[name], 70*time.Millisecond
			if endpoint == "" {
				took = 0
			}
			if e.Op != name || e.Backend != "scripted" || any(e.Err) != any(err) || e.Endpoint != endpoint || e.Duration != took {
				t.Errorf("%s: %+v", name, e)
			}
		}
		events = nil
		_, _ = s.Get(t.Context(), "/bad")
		synctest.Wait()
		if len(events) != 0 {
			t.Errorf("a call that was not made is reported: %+v", events)
		}
	})
	AnsweredBy(t.Context(), "h1") // has no effect without an Observer
}

// An outage is logged with two lines, no matter how many calls fail in it, and a
// flapping store does not fill the log.
func TestOutagesAreLogged(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		var answer error
		b := &scripted{get: func(context.Context, string) (Entry, error) { return Entry{}, answer }}
		s := newStore(t, b, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		lines := func(err error, n int) string {
			log.Reset()
			answer = err
			for range n {
				_, _ = s.Get(t.Context(), "k")
				time.Sleep(10 * time.Millisecond)
			}
			synctest.Wait() // the records are delivered
			return log.String()
		}
		for _, c := range []struct {
			err  error
			n    int
			says string // empty: silent
		}{
			{nil, 3, ""},
			{ErrNotFound, 3, ""},
			{context.Canceled, 3, ""},
			{&Error{Kind: ErrUnavailable, Err: withCause(context.DeadlineExceeded, localError{})}, 3, ""},
			{errors.New("refused"), 50, "level=WARN msg=\"the store does not answer\" backend=scripted op=Get key=k error=\"dcs: scripted: Get \\\"k\\\": store unavailable: refused\""},
			{ErrNotFound, 1, "level=INFO msg=\"the store answers again\" backend=scripted after=500ms failed_calls=50"},
			{errors.New("refused"), 1, ""}, // too soon after the last one
			{nil, 1, ""},
			{nil, 100, ""},
			{&Error{Kind: ErrUnauthorized}, 10, "level=ERROR msg=\"the store rejects the credentials\""},
			{nil, 1, "failed_calls=10"},
		} {
			got := lines(c.err, c.n)
			if want := min(len(c.says), 1); strings.Count(got, "\n") != want || !strings.Contains(got, c.says) {
				t.Errorf("%d x %v is logged as %q, want %q", c.n, c.err, got, c.says)
			}
		}
	})
}

// localError is a backend's own limit.
type localError struct{}

func (localError) Error() string { return "busy" }
func (localError) Local() bool   { return true }
