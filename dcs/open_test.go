package dcs

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// driver is a Driver whose Open the test provides.
type driver struct {
	params []Param
	open   func(context.Context, *URL, Options) (Backend, error)
	opened atomic.Int64
}

func (d *driver) Params() []Param { return d.params }

func (d *driver) Open(ctx context.Context, u *URL, o Options) (Backend, error) {
	d.opened.Add(1)
	return d.open(ctx, u, o)
}

// withDriver registers d under scheme for one test.
func withDriver(t *testing.T, scheme string, d Driver) {
	t.Helper()
	Register(scheme, d)
	t.Cleanup(func() {
		drivers.Lock()
		defer drivers.Unlock()
		delete(drivers.m, scheme)
	})
}

func TestOpen(t *testing.T) {
	b := &scripted{caps: Caps{MinTTL: 10 * time.Second}}
	var got URL
	var with Options
	d := &driver{params: []Param{{Name: "id", Usage: "the member's name"}}}
	d.open = func(_ context.Context, u *URL, o Options) (Backend, error) {
		got, with = *u, o
		return b, nil
	}
	withDriver(t, "fake", d)
	var log bytes.Buffer
	s, err := Open(t.Context(), "fake://h1:1,[::1]:2/root?id=a&ttl=6s&loop_wait=1s", Options{
		Timing: Timing{TTL: time.Hour, LoopWait: time.Minute, RetryTimeout: 2 * time.Second},
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if want := (Timing{6 * time.Second, time.Second, 2 * time.Second}); with.Timing != want || s.Timing() != want {
		t.Errorf("the driver got %v, the Store has %v, want %v", with.Timing, s.Timing(), want)
	}
	if got.String() != "fake://h1:1,[::1]:2/root?id=a" || got.Path != "/root" || with.Logger == nil {
		t.Errorf("the driver got %s", got.String())
	}
	if s.Unwrap() != b {
		t.Error("the Store does not use the driver's Backend")
	}
	flush(s.log, time.Second)
	if text := log.String(); !strings.Contains(text, "TTL 6s is below this store's minimum: it grants 10s") {
		t.Errorf("no warning in the log: %s", text)
	}
	if !slices.Contains(Schemes(), "fake") || len(Params("fake")) != 4 || Params("no-such") != nil {
		t.Errorf("known schemes %v, options of one %v", Schemes(), Params("fake"))
	}
}

func TestOpenDefaultsTiming(t *testing.T) {
	d := &driver{open: func(_ context.Context, _ *URL, o Options) (Backend, error) {
		if o.Timing != DefaultTiming || o.Logger == nil {
			return nil, errors.New("the options have no defaults")
		}
		return &scripted{}, nil
	}}
	withDriver(t, "fake", d)
	s, err := Open(t.Context(), "fake://", Options{})
	if err != nil {
		t.Fatal(err)
	}
	if s.Timing() != DefaultTiming || s.Close() != nil {
		t.Errorf("the Store has %v", s.Timing())
	}
}

// The faults of a URL are reported before the driver is called.
func TestOpenRefusesBeforeAnyIO(t *testing.T) {
	d := &driver{params: []Param{{Name: "id"}, {Name: "peers"}}}
	withDriver(t, "fake", d)
	for raw, says := range map[string][]string{
		"nosuch://h":                       {`scheme "nosuch" is unknown: known are `, "fake", "importing its backend's package"},
		"fake://h?idd=a":                   {`option "idd" is unknown: scheme "fake" knows id, loop_wait, peers, retry_timeout, ttl`},
		"fake://h?x=1&y=2":                 {`option "x"`, `option "y"`},
		"fake://h?ttl=0s":                  {`option ttl="0s" is not a duration of more than 0: write it like ttl=10s`},
		"fake://h?ttl=-1s":                 {`option ttl="-1s"`},
		"fake://h?ttl=30":                  {`option ttl="30"`},
		"fake://h?retry_timeout=soon":      {`option retry_timeout="soon"`},
		"fake://h?x=1&ttl=0s&loop_wait=no": {`option "x"`, "option ttl", "option loop_wait"},
		"fake://h?loop_wait=1s":            {"TTL is 0 while other settings are not", "works"},
		"fake://me:hunter2@h":              {"a file or the environment"},
		"fake//h":                          {"no scheme"},
	} {
		s, err := Open(t.Context(), raw, Options{})
		if s != nil || KindOf(err) != ErrInvalid {
			t.Errorf("%s: %v", raw, err)
			continue
		}
		for _, text := range says {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %v does not say %q", raw, err, text)
			}
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("a secret is repeated: %v", err)
		}
	}
	if _, err := Open(t.Context(), "fake://h", Options{Timing: Timing{TTL: -1}}); KindOf(err) != ErrInvalid {
		t.Errorf("a negative TTL: %v", err)
	}
	done, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(done, "fake://h", Options{}); !errors.Is(err, context.Canceled) || KindOf(err) != ErrUnavailable {
		t.Errorf("a finished context: %v", err)
	}
	if n := d.opened.Load(); n != 0 {
		t.Errorf("the driver was called %d times", n)
	}
}

func TestOpenFails(t *testing.T) {
	var answer error
	var b Backend
	d := &driver{open: func(context.Context, *URL, Options) (Backend, error) { return b, answer }}
	withDriver(t, "fake", d)
	for want, given := range map[error]error{
		ErrUnavailable:  errors.New("refused"),
		ErrUnauthorized: &Error{Kind: ErrUnauthorized, Endpoint: "h1"},
		ErrInvalid:      &Error{Kind: ErrInvalid, Err: errors.New("peers is missing")},
	} {
		answer = given
		_, err := Open(t.Context(), "fake://h", Options{})
		var e *Error
		if !errors.As(err, &e) || e.Kind != want || e.Op != "Open" || e.Backend != "fake" {
			t.Errorf("%v: %v", given, err)
		}
	}
	answer = nil
	if _, err := Open(t.Context(), "fake://h", Options{}); KindOf(err) != ErrUnavailable {
		t.Errorf("neither backend nor error: %v", err)
	}
	// A Timing that does not fit the store leaves no backend open.
	fake := &scripted{caps: Caps{MaxTTL: 10 * time.Second}}
	b = fake
	_, err := Open(t.Context(), "fake://h?ttl=1m", Options{})
	if KindOf(err) != ErrInvalid || !strings.Contains(err.Error(), "TTL 1m0s, which this store moves to 10s") || fake.closed.Load() != 1 {
		t.Errorf("%v, closed %d times", err, fake.closed.Load())
	}
	// A driver's error after the end of its context matches the context's error.
	b = nil
	ctx, cancel := context.WithCancel(t.Context())
	d.open = func(context.Context, *URL, Options) (Backend, error) {
		cancel()
		return nil, errors.New("stream closed")
	}
	if _, err := Open(ctx, "fake://h", Options{}); !errors.Is(err, context.Canceled) || KindOf(err) != ErrUnavailable {
		t.Errorf("cancelled while opening: %v", err)
	}
}

func TestRegisterPanics(t *testing.T) {
	withDriver(t, "taken", &driver{})
	for name, register := range map[string]func(){
		"nil driver":      func() { Register("x", nil) },
		"taken":           func() { Register("taken", &driver{}) },
		"no name":         func() { Register("", &driver{}) },
		"upper case":      func() { Register("Mem", &driver{}) },
		"common option":   func() { Register("x", &driver{params: []Param{{Name: "ttl"}}}) },
		"option twice":    func() { Register("x", &driver{params: []Param{{Name: "a"}, {Name: "a"}}}) },
		"no option name":  func() { Register("x", &driver{params: []Param{{Name: "A-b"}}}) },
		"a secret option": func() { Register("x", &driver{params: []Param{{Name: "auth_token"}}}) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			register()
		}()
	}
	if slices.Contains(Schemes(), "x") {
		t.Error("a refused driver is registered")
	}
}
