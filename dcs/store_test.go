package dcs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
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

// Wait takes as long as its context and ends with that one's bare error, while
// the store answers.
func TestWaitIsExempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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
	// An inner cancellation that is not the caller's is the store's silence.
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
		"caps":      {Caps{MinTTL: 2, MaxTTL: 1}, Timing{}, "MinTTL is between 0 and MaxTTL"},
		"more caps": {Caps{MaxValue: -1}, Timing{}, "MaxValue -1"},
		"both":      {Caps{MaxTxnOps: -1}, Timing{TTL: -1}, "MaxTxnOps -1, MaxTxnBytes 0: none is negative, and 0 is no limit; TTL -1ns is negative"},
	} {
		b := &scripted{caps: c.caps}
		s, err := New(b, Options{Timing: c.timing})
		if s != nil || KindOf(err) != ErrInvalid || !strings.Contains(err.Error(), c.says) || b.closed.Load() != 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := newStore(t, anonymous{&scripted{}}, Options{})
	if _, err := s.Get(t.Context(), "k"); !strings.Contains(err.Error(), `dcs: dcs: Get "k"`) {
		t.Errorf("a backend without a name is called otherwise than its package: %v", err)
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
		t.Errorf("the last word becomes %v", err)
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
		t.Error("what cannot be settled was sent")
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
			t.Errorf("%s: what is left to settle is %v, want %v", name, e.Attempt, c.attempt)
		}
	}
	done, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Settle(done, open)
	var e *Error
	if !errors.As(err, &e) || e.Attempt != "first" {
		t.Errorf("with a finished context nothing is left to settle: %v", err)
	}
}

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
			t.Error("the backend was closed before what stands on it had ended")
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

// A call that Close cuts short is ErrClosed; of one that may have written
// something that is not all that has to be said.
func TestCloseUnderACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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
	synctest.Test(t, func(t *testing.T) {
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
		if len(events) != 0 {
			t.Errorf("a call that was not made is reported: %+v", events)
		}
	})
	AnsweredBy(t.Context(), "h1") // nobody observes: nothing happens
}

// An outage is two lines, however many calls fail in it, and a flapping store
// does not fill the disk.
func TestOutagesAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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
			{errors.New("refused"), 50, "level=WARN msg=\"the store does not answer\" backend=scripted op=Get key=k error=\"dcs: scripted: Get \\\"k\\\": store unavailable: refused\""},
			{ErrNotFound, 1, "level=INFO msg=\"the store answers again\" backend=scripted after=500ms failed_calls=50"},
			{errors.New("refused"), 1, ""}, // too soon after the last one
			{nil, 1, ""},
			{nil, 100, ""},
			{&Error{Kind: ErrUnauthorized}, 10, "level=ERROR msg=\"the store refuses our credentials\""},
			{nil, 1, "failed_calls=10"},
		} {
			got := lines(c.err, c.n)
			if want := min(len(c.says), 1); strings.Count(got, "\n") != want || !strings.Contains(got, c.says) {
				t.Errorf("%d x %v is logged as %q, want %q", c.n, c.err, got, c.says)
			}
		}
	})
}
