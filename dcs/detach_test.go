package dcs

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dcs/holdfast/internal/bubble"
)

// stuck is a log handler that blocks, like a full pipe.
type stuck struct {
	slog.Handler
	gate chan struct{}
}

func (h stuck) Handle(ctx context.Context, r slog.Record) error {
	<-h.gate
	return h.Handler.Handle(ctx, r)
}

func (h stuck) WithAttrs(a []slog.Attr) slog.Handler { return stuck{h.Handler.WithAttrs(a), h.gate} }

// buffer is a log that can be read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// A log handler and callbacks that block for ever cost no call, no renewal and no
// lease.
func TestBlockedLogAndObserverStopNothing(t *testing.T) {
	inTime(t, func(b *bench) {
		var out buffer
		gate := make(chan struct{})
		log := slog.New(stuck{slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}), gate})
		c := &settling{client: &client{w: b.w}}
		st, err := New(c, Options{Logger: log, Observer: Observer{
			Call:    func(CallEvent) { <-gate },
			Renewal: func(RenewalEvent) { <-gate },
			State:   func(StateEvent) { <-gate },
		}})
		b.must(err)
		b.stores = append(b.stores, st)
		s, err := st.NewSession(b.Context(), SessionOptions{Logger: log})
		b.must(err)
		h := b.hold(s, "leader")
		failing := func(fails bool) {
			c.hook(func() {
				c.onRenew, c.onGet = nil, nil
				if fails {
					c.onRenew = failRenew
					c.onGet = func(context.Context, string, func() (Entry, error)) (Entry, error) { return Entry{}, errDown() }
				}
			})
		}
		for range 10 {
			failing(true)
			_, err := st.Get(b.Context(), "leader")
			b.is(err, ErrUnavailable)
			time.Sleep(11 * time.Second)
			failing(false)
			_, err = st.Get(b.Context(), "leader")
			b.must(err)
			b.must(h.Confirm(b.Context()))
		}
		b.valid(h, true)
		for range 2 * QueueSize {
			_, err := st.Get(b.Context(), "leader")
			b.must(err)
		}
		start := time.Now()
		b.close(s)
		b.must(st.Close())
		if d := time.Since(start); d > flushTime {
			b.Errorf("Close waited %v for the log", d)
		}
		if out.String() != "" {
			b.Fatal("the log did not block")
		}
		close(gate)
		synctest.Wait()
		for _, want := range []string{"the store does not answer", "the store answers again", "lease could not be renewed", "session over", "events were dropped because the observer is too slow\" callback=Call dropped="} {
			if !strings.Contains(out.String(), want) {
				b.Errorf("the log lacks %q", want)
			}
		}
	})
}

// A log handler that is slow delays no call.
func TestSlowLogDelaysNothing(t *testing.T) {
	inTime(t, func(b *bench) {
		log := slog.New(slow{slog.NewTextHandler(&buffer{}, nil), func() { time.Sleep(time.Minute) }})
		st, err := New(&scripted{}, Options{Logger: log})
		b.must(err)
		start := time.Now()
		for range 3 {
			_, err = st.Get(b.Context(), "k")
			b.is(err, ErrUnavailable)
		}
		if d := time.Since(start); d != 0 {
			b.Errorf("three calls took %v", d)
		}
	})
}

// Callbacks that are slow delay no call.
func TestSlowCallbacksDelayNothing(t *testing.T) {
	inTime(t, func(b *bench) {
		late := func() { time.Sleep(time.Minute) }
		st, err := New(&settling{client: &client{w: b.w}}, Options{
			Observer: Observer{Call: func(CallEvent) { late() }, State: func(StateEvent) { late() }, Renewal: func(RenewalEvent) { late() }},
		})
		b.must(err)
		b.stores = append(b.stores, st)
		start := time.Now()
		s, err := st.NewSession(b.Context(), SessionOptions{})
		b.must(err)
		h := b.hold(s, "leader")
		b.must(h.Confirm(b.Context()))
		b.must(h.Release(b.Context()))
		b.close(s)
		if d := time.Since(start); d != 0 {
			b.Errorf("five calls took %v", d)
		}
		time.Sleep(time.Hour)
	})
}

type slow struct {
	slog.Handler
	late func()
}

func (h slow) Handle(ctx context.Context, r slog.Record) error {
	h.late()
	return h.Handler.Handle(ctx, r)
}
func (h slow) WithAttrs(a []slog.Attr) slog.Handler { return slow{h.Handler.WithAttrs(a), h.late} }

// Dropped records are counted and reported once the log works again.
func TestDroppedRecordsAreReported(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var out buffer
		gate := make(chan struct{})
		log, _ := Detached(slog.New(stuck{slog.NewTextHandler(&out, nil), gate}), Observer{})
		log.Info("first")
		synctest.Wait() // it is being delivered
		for range QueueSize + 7 {
			log.Info("more")
		}
		close(gate)
		synctest.Wait()
		if n := strings.Count(out.String(), "msg=more"); n != QueueSize {
			t.Errorf("%d records were delivered, want %d", n, QueueSize)
		}
		if want := "log records were dropped because the log handler is too slow\" dropped=7 queue_size=1024\n"; !strings.HasSuffix(out.String(), want) {
			t.Errorf("the drops were not reported: %q", out.String()[max(0, out.b.Len()-200):])
		}
		log.With("a", 1).WithGroup("g").Info("again", "b", 2)
		synctest.Wait()
		if want := "msg=again a=1 g.b=2\n"; !strings.HasSuffix(out.String(), want) || strings.Count(out.String(), "dropped=") != 1 {
			t.Errorf("after that: %q", out.String()[max(0, out.b.Len()-200):])
		}
	})
}

// Detaching twice is the same as detaching once, and a log that discards everything
// costs no goroutine.
func TestDetachedTwice(t *testing.T) {
	log, o := Detached(slog.New(slog.NewTextHandler(&buffer{}, nil)), Observer{State: func(StateEvent) {}})
	again, twice := Detached(log, o)
	if again != log || !twice.detached || twice.State == nil || twice.Call != nil {
		t.Error("detached twice")
	}
	if quiet, _ := Detached(nil, Observer{}); quiet != discard {
		t.Error("a nil logger does not discard")
	}
	if quiet, _ := Detached(slog.New(slog.DiscardHandler), Observer{}); quiet != discard {
		t.Error("a log that discards is queued")
	}
}

// A callback or a handler that panics is reported and does not stop the delivery.
func TestPanicsAreReported(t *testing.T) {
	inTime(t, func(b *bench) {
		var out buffer
		var got []State
		st, err := New(&settling{client: &client{w: b.w}}, Options{
			Logger: slog.New(slog.NewTextHandler(&out, nil)),
			Observer: Observer{State: func(e StateEvent) {
				got = append(got, e.To)
				panic("broken callback")
			}},
		})
		b.must(err)
		b.stores = append(b.stores, st)
		s, err := st.NewSession(b.Context(), SessionOptions{})
		b.must(err)
		b.hold(s, "leader")
		b.close(s)
		synctest.Wait()
		if len(got) != 4 {
			b.Errorf("states %v, want four", got)
		}
		if n := strings.Count(out.String(), "msg=\"observer callback panicked\" callback=State panic=\"broken callback\" stack="); n != 4 {
			b.Errorf("%d panics were reported: %s", n, out.String())
		}
	})
	bubble.Test(t, func(t *testing.T) {
		var out buffer
		text := slog.NewTextHandler(&out, nil)
		log, _ := Detached(slog.New(panicking{text}), Observer{})
		log.Info("bad")
		log.Info("good")
		synctest.Wait()
		if !strings.Contains(out.String(), "msg=good") || !strings.Contains(out.String(), "dropped=1") {
			t.Error(out.String())
		}
	})
}

type panicking struct{ slog.Handler }

func (h panicking) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == "bad" {
		panic(r.Message)
	}
	return h.Handler.Handle(ctx, r)
}

// Callbacks may close the Store and the Session that they observe.
func TestCallbacksMayClose(t *testing.T) {
	for name, x := range map[string]func(st *Store, s *Session) error{
		"the Store":   func(st *Store, _ *Session) error { return st.Close() },
		"the Session": func(_ *Store, s *Session) error { return s.Close(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(b *bench) {
				var st *Store
				var s *Session
				done := make(chan error, 1)
				st, err := New(&settling{client: &client{w: b.w}}, Options{Observer: Observer{State: func(e StateEvent) {
					if e.Key == "" && e.To == Lost {
						done <- x(st, s)
					}
				}}})
				b.must(err)
				b.stores = append(b.stores, st)
				s, err = st.NewSession(b.Context(), SessionOptions{})
				b.must(err)
				start := time.Now()
				b.must(st.Close())
				if err := <-done; err != nil && !errors.Is(err, ErrClosed) {
					b.Error(err)
				}
				if d := time.Since(start); d > 0 {
					b.Errorf("returned after %v", d)
				}
			})
		})
	}
}
