package dcs

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/internal/bubble"
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

// calls are all methods that call the backend, each with a valid argument.
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

// untilDone blocks until its context ends and fails with the error that its test sets.
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
				bubble.Test(t, func(t *testing.T) { testBudget(t, fail, limit) })
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
			t.Errorf("%s: %v does not match both", name, err)
		}
	}
}

// A definite answer stays definite, even if the context or the Store ended meanwhile.
func TestDefiniteAnswersStayDefinite(t *testing.T) {
	for _, kind := range []error{ErrConflict, ErrLost} {
		ctx, cancel := context.WithCancel(t.Context())
		var s *Store
		s = newStore(t, &scripted{commit: func(context.Context, Txn) (Revision, error) {
			cancel()
			_ = s.Close()
			return 0, &Error{Kind: kind}
		}}, Options{})
		_, err := s.Commit(ctx, Txn{Then: []Write{Put("a", nil)}})
		if KindOf(err) != kind || errors.Is(err, context.Canceled) || errors.Is(err, ErrClosed) {
			t.Errorf("%v became %v", kind, err)
		}
	}
}

// While the store answers, Wait takes as long as its context and returns the bare error
// of that context.
func TestWaitIsExempt(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newStore(t, untilDone(context.Context.Err), Options{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		begin := time.Now()
		if _, err := s.Wait(ctx, "", 0); any(err) != any(context.DeadlineExceeded) || time.Since(begin) != time.Hour {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
	})
	silent := &Error{Kind: ErrUnavailable, Err: errors.New("nothing heard for 1s")}
	for _, c := range []struct {
		err  error
		bare bool
	}{{context.Canceled, true}, {fmt.Errorf("stream: %w", context.Canceled), true}, {silent, false}, {errors.New("reset"), false}, {&Error{Kind: ErrUnavailable, Err: context.Canceled}, false}} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		b := &scripted{wait: func(context.Context, string, Revision) (Snapshot, error) { cancel(); return Snapshot{}, c.err }}
		s := newStore(t, b, Options{})
		_, err := s.Wait(ctx, "", 0)
		if got := any(err) == any(context.Canceled); got != c.bare || !errors.Is(err, context.Canceled) || errors.Is(err, ErrUnavailable) == c.bare {
			t.Errorf("%v becomes %v", c.err, err)
		}
	}
	// An inner cancellation that is not the caller's is an outage of the store.
	b := &scripted{wait: func(context.Context, string, Revision) (Snapshot, error) { return Snapshot{}, context.Canceled }}
	if _, err := newStore(t, b, Options{}).Wait(t.Context(), "", 0); KindOf(err) != ErrUnavailable {
		t.Errorf("an inner cancellation becomes %v", err)
	}
}

func TestNew(t *testing.T) {
	if _, err := New(nil, Options{}); KindOf(err) != ErrInvalid {
		t.Errorf("no backend: %v", err)
	}
	for name, c := range map[string]struct {
		caps   Caps
		timing Timing
		says   string
	}{
		"timing":    {Caps{}, Timing{TTL: time.Second, LoopWait: time.Second, RetryTimeout: time.Second}, "scripted: New: invalid argument: TTL 1s is less than"},
		"caps":      {Caps{MinTTL: 2, MaxTTL: 1}, Timing{}, "MinTTL must be between 0 and MaxTTL"},
		"more caps": {Caps{MaxValue: -1}, Timing{}, "MaxValue -1"},
		"both":      {Caps{MaxTxnOps: -1}, Timing{TTL: -1}, "MaxTxnOps -1, MaxTxnBytes 0: none may be negative, and 0 is no limit; TTL -1ns is negative"},
	} {
		b := &scripted{caps: c.caps}
		s, err := New(b, Options{Timing: c.timing})
		if s != nil || KindOf(err) != ErrInvalid || !strings.Contains(err.Error(), c.says) || b.closed.Load() != 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := newStore(t, anonymous{&scripted{}}, Options{})
	if _, err := s.Get(t.Context(), "k"); !strings.Contains(err.Error(), `dcs: dcs: Get "k"`) {
		t.Errorf("a backend without a Name is not called by its package: %v", err)
	}
}

// anonymous is a Backend without a Name.
type anonymous struct{ Backend }

func TestGrant(t *testing.T) {
	b := &scripted{caps: Caps{MinTTL: 2 * time.Second, MaxTTL: time.Minute}}
	var asked time.Duration
	b.grant = func(_ context.Context, ttl time.Duration) (Lease, Renewal, error) {
		asked = ttl
		return &scriptedLease{}, Renewal{TTL: ttl}, nil
	}
	s := newStore(t, b, Options{})
	for ttl, want := range map[time.Duration]time.Duration{
		1: 2 * time.Second, 2 * time.Second: 2 * time.Second, 5 * time.Second: 5 * time.Second,
		time.Minute: time.Minute, math.MaxInt64: time.Minute,
	} {
		l, r, err := s.Grant(t.Context(), ttl)
		if err != nil || asked != want || r.TTL != want || l.ID() != "lease-1" {
			t.Errorf("%v: asked for %v, %v", ttl, asked, err)
		}
	}
	before := b.sent.Load()
	for _, ttl := range []time.Duration{0, -1, math.MinInt64} {
		if _, _, err := s.Grant(t.Context(), ttl); KindOf(err) != ErrInvalid || !strings.Contains(err.Error(), "is not more than 0: use one like 3s") {
			t.Errorf("%v: %v", ttl, err)
		}
	}
	if b.sent.Load() != before {
		t.Error("a wrong TTL was sent")
	}
	b.grant = func(context.Context, time.Duration) (Lease, Renewal, error) { return nil, Renewal{}, nil }
	if _, _, err := s.Grant(t.Context(), time.Second); KindOf(err) != ErrAmbiguous {
		t.Errorf("neither lease nor error: %v", err)
	}
}

func TestLease(t *testing.T) {
	inner := &scriptedLease{}
	b := &scripted{grant: func(context.Context, time.Duration) (Lease, Renewal, error) { return inner, Renewal{}, nil }}
	s := newStore(t, b, Options{})
	l, _, err := s.Grant(t.Context(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var asked []string
	inner.renew = func(_ context.Context, keys []string) (Renewal, error) {
		asked = keys
		return Renewal{TTL: time.Second}, nil
	}
	if r, err := l.Renew(t.Context(), "a", "b/c"); err != nil || r.TTL != time.Second || len(asked) != 2 {
		t.Errorf("%+v of %v, %v", r, asked, err)
	}
	for given, want := range map[error]error{ErrLost: ErrLost, ErrConflict: ErrUnavailable, ErrNotFound: ErrUnavailable, ErrAmbiguous: ErrUnavailable} {
		inner.renew = func(context.Context, []string) (Renewal, error) { return Renewal{TTL: 1}, given }
		inner.revoke = func(context.Context) error { return given }
		r, err := l.Renew(t.Context())
		if KindOf(err) != want || r.TTL != 0 {
			t.Errorf("Renew: %v becomes %v", given, err)
		}
		if err := l.Revoke(t.Context()); KindOf(err) != want {
			t.Errorf("Revoke: %v becomes %v", given, err)
		}
	}
	inner.revoke = func(context.Context) error { return nil }
	if err := l.Revoke(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestSettle(t *testing.T) {
	b := &scriptedSettler{}
	s := newStore(t, b, Options{})
	open := &Error{Op: "Commit", Key: "k", Kind: ErrAmbiguous, Attempt: "first"}
	for name, e := range map[string]*Error{"nil": nil, "a no": {Kind: ErrConflict}, "nothing sent": {Kind: ErrUnavailable}} {
		if _, err := s.Settle(t.Context(), e); KindOf(err) != ErrInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	fenced := &Error{Kind: ErrAmbiguous, Fenced: true}
	if _, err := s.Settle(t.Context(), fenced); any(err) != any(fenced) {
		t.Errorf("the final error becomes %v", err)
	}
	for name, s := range map[string]*Store{"no Settler": newStore(t, &scripted{}, Options{}), "no handle": s} {
		e := *open
		if name == "no handle" {
			e.Attempt = nil
		}
		_, err := s.Settle(t.Context(), &e)
		if KindOf(err) != ErrAmbiguous || !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if b.sent.Load() != 0 {
		t.Error("an attempt that cannot be settled was sent")
	}
	for name, c := range map[string]struct {
		answer  error
		kind    error
		attempt any
	}{
		"yes":             {nil, nil, nil},
		"no":              {ErrConflict, ErrConflict, nil},
		"lost":            {&Error{Kind: ErrLost}, ErrLost, nil},
		"not found":       {ErrNotFound, ErrAmbiguous, "first"}, // no answer to this question
		"still open":      {&Error{Kind: ErrAmbiguous, Attempt: "second"}, ErrAmbiguous, "second"},
		"fenced":          {&Error{Kind: ErrAmbiguous, Fenced: true}, ErrAmbiguous, nil},
		"unrecognised":    {errors.New("reset"), ErrAmbiguous, "first"},
		"unavailable":     {ErrUnavailable, ErrUnavailable, "first"},
		"unauthorized":    {&Error{Kind: ErrUnauthorized}, ErrUnauthorized, "first"},
		"backend closed":  {ErrClosed, ErrAmbiguous, "first"},
		"context's error": {context.DeadlineExceeded, ErrAmbiguous, "first"},
	} {
		b.settle = func(_ context.Context, e *Error) (Revision, error) {
			if e != open {
				t.Errorf("%s: asked to settle %v", name, e)
			}
			return 8, c.answer
		}
		rev, err := s.Settle(t.Context(), open)
		if KindOf(err) != c.kind || (rev == 8) != (err == nil) {
			t.Errorf("%s: %d, %v", name, rev, err)
		}
		var e *Error
		if errors.As(err, &e) && e.Attempt != c.attempt {
			t.Errorf("%s: the attempt left to settle is %v, want %v", name, e.Attempt, c.attempt)
		}
	}
	done, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Settle(done, open)
	var e *Error
	if !errors.As(err, &e) || e.Attempt != "first" {
		t.Errorf("with a finished context no attempt is left to settle: %v", err)
	}
}
