package dcs

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

var short = Timing{TTL: 3 * time.Second, LoopWait: time.Second, RetryTimeout: time.Second}

// newStore returns a Store around b with short Timing, closed after the test.
func newStore(t testing.TB, b Backend, o Options) *Store {
	t.Helper()
	if o.Timing == (Timing{}) {
		o.Timing = short
	}
	s, err := New(b, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// calls are all methods that talk to a backend, each with a sound argument.
func calls(s *Store) map[string]func(context.Context) error {
	lease := &storeLease{s: s, l: &scriptedLease{}}
	return map[string]func(context.Context) error{
		"Get":      func(ctx context.Context) error { _, err := s.Get(ctx, "k"); return err },
		"Snapshot": func(ctx context.Context) error { _, err := s.Snapshot(ctx, ""); return err },
		"Wait":     func(ctx context.Context) error { _, err := s.Wait(ctx, "", 0); return err },
		"Commit": func(ctx context.Context) error {
			_, err := s.Commit(ctx, Txn{Then: []Write{Put("k", nil)}})
			return err
		},
		"Grant":  func(ctx context.Context) error { _, _, err := s.Grant(ctx, time.Second); return err },
		"Renew":  func(ctx context.Context) error { _, err := lease.Renew(ctx, "k"); return err },
		"Revoke": lease.Revoke,
		"Settle": func(ctx context.Context) error {
			_, err := s.Settle(ctx, &Error{Kind: ErrAmbiguous, Attempt: 1})
			return err
		},
	}
}

func TestUnrecognisedErrorsGetTheDefaultKind(t *testing.T) {
	s := newStore(t, &scriptedSettler{}, Options{})
	for name, call := range calls(s) {
		err := call(t.Context())
		want := ErrUnavailable
		if name == "Commit" || name == "Grant" || name == "Settle" {
			want = ErrAmbiguous
		}
		var e *Error
		if !errors.As(err, &e) || e.Kind != want || e.Op != name || e.Backend != "scripted" {
			t.Errorf("%s: %v, want one *Error of kind %q", name, err, want)
		}
		var cause unscripted
		if !errors.As(err, &cause) {
			t.Errorf("%s: the cause is not in %v", name, err)
		}
	}
}

func TestNothingIsSentWhenClosedOrFinished(t *testing.T) {
	b := &scriptedSettler{}
	s := newStore(t, b, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, call := range calls(s) {
		err := call(ctx)
		if !errors.Is(err, context.Canceled) || errors.Is(err, ErrAmbiguous) {
			t.Errorf("%s with a finished context: %v", name, err)
		}
		if bare := name == "Wait"; errors.Is(err, ErrUnavailable) == bare {
			t.Errorf("%s with a finished context: %v", name, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for name, call := range calls(s) {
		if err := call(t.Context()); !errors.Is(err, ErrClosed) || KindOf(err) != ErrClosed {
			t.Errorf("%s on a closed Store: %v", name, err)
		}
	}
	if n := b.sent.Load(); n != 0 {
		t.Errorf("%d calls reached the backend", n)
	}
}

// untilDone blocks until its context ends and fails as its test says.
func untilDone(fail func(context.Context) error) *scriptedSettler {
	b := &scriptedSettler{}
	b.get = func(ctx context.Context, _ string) (Entry, error) { <-ctx.Done(); return Entry{}, fail(ctx) }
	b.snapshot = func(ctx context.Context, _ string) (Snapshot, error) { <-ctx.Done(); return Snapshot{}, fail(ctx) }
	b.wait = func(ctx context.Context, _ string, _ Revision) (Snapshot, error) {
		<-ctx.Done()
		return Snapshot{}, fail(ctx)
	}
	b.commit = func(ctx context.Context, _ Txn) (Revision, error) { <-ctx.Done(); return 0, fail(ctx) }
	b.grant = func(ctx context.Context, _ time.Duration) (Lease, Renewal, error) {
		<-ctx.Done()
		return nil, Renewal{}, fail(ctx)
	}
	b.settle = func(ctx context.Context, _ *Error) (Revision, error) { <-ctx.Done(); return 0, fail(ctx) }
	return b
}

func TestBudget(t *testing.T) {
	answers := map[string]func(context.Context) error{
		"bare":    func(ctx context.Context) error { return ctx.Err() },
		"wrapped": func(ctx context.Context) error { return fmt.Errorf("transport: %w", ctx.Err()) },
		"other":   func(context.Context) error { return errors.New("stream closed") },
		"typed":   func(context.Context) error { return &Error{Kind: ErrUnavailable, Err: errors.New("gave up")} },
	}
	for answer, fail := range answers {
		for _, limit := range []time.Duration{0, 200 * time.Millisecond, time.Hour} {
			t.Run(fmt.Sprint(answer, limit), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { testBudget(t, fail, limit) })
			})
		}
	}
}

func testBudget(t *testing.T, fail func(context.Context) error, limit time.Duration) {
	s := newStore(t, untilDone(fail), Options{})
	lease := &storeLease{s: s, l: &scriptedLease{
		renew:  func(ctx context.Context, _ []string) (Renewal, error) { <-ctx.Done(); return Renewal{}, fail(ctx) },
		revoke: func(ctx context.Context) error { <-ctx.Done(); return fail(ctx) },
	}}
	all := calls(s)
	all["Renew"] = func(ctx context.Context) error { _, err := lease.Renew(ctx); return err }
	all["Revoke"] = lease.Revoke
	delete(all, "Wait")
	for name, call := range all {
		ctx, want := t.Context(), short.RetryTimeout
		if limit > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, limit)
			defer cancel()
			want = min(want, limit)
		}
		start := time.Now()
		err := call(ctx)
		if took := time.Since(start); took != want {
			t.Errorf("%s took %v, want %v", name, took, want)
		}
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrUnavailable) {
			t.Errorf("%s: %v matches not both", name, err)
		}
	}
}
