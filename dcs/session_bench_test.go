package dcs

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dcs/holdfast/internal/bubble"
)

// bench is a world in virtual time, with the events observed in it.
type bench struct {
	testing.TB
	w *world

	mu     sync.Mutex
	stores []*Store
	states []StateEvent
	renews []RenewalEvent
}

// inTime runs f in virtual time and checks that no goroutine is left.
func inTime(t *testing.T, f func(b *bench)) {
	t.Helper()
	bubble.Test(t, func(t *testing.T) {
		b := &bench{TB: t, w: newWorld()}
		defer func() {
			if t.Failed() {
				b.closeAll()
				time.Sleep(10 * time.Minute) // an answer still on its way would panic in the bubble
			}
		}()
		f(b)
		time.Sleep(10 * time.Minute) // every late answer has come, and every budget is spent
		synctest.Wait()
		for g := range strings.SplitSeq(stacks(), "\n\n") {
			// A goroutine outside the bubble belongs to an earlier test in real time
			// that returned just before the goroutine ended.
			inBubble := strings.Contains(g, "synctest bubble")
			if inBubble && strings.Contains(g, "dcs.(*Session)") && !t.Failed() {
				t.Errorf("a goroutine is left:\n%s", g)
			}
		}
	})
}

func stacks() string {
	buf := make([]byte, 1<<20)
	return string(buf[:runtime.Stack(buf, true)])
}

func (b *bench) closeAll() {
	for _, s := range b.stores {
		_ = s.Close()
	}
}

func (b *bench) store(be Backend) *Store {
	b.Helper()
	s, err := New(be, Options{Observer: Observer{
		State:   func(e StateEvent) { b.mu.Lock(); defer b.mu.Unlock(); b.states = append(b.states, e) },
		Renewal: func(e RenewalEvent) { b.mu.Lock(); defer b.mu.Unlock(); b.renews = append(b.renews, e) },
	}})
	b.must(err)
	b.stores = append(b.stores, s)
	return s
}

func (b *bench) session(be Backend) *Session {
	b.Helper()
	s, err := b.store(be).NewSession(b.Context(), SessionOptions{})
	b.must(err)
	return s
}

// plain is a session of a well-behaved client.
func (b *bench) plain() *Session { b.Helper(); return b.session(&settling{client: &client{w: b.w}}) }

func (b *bench) hold(s *Session, key string) *Hold {
	b.Helper()
	h, err := s.TryAcquire(b.Context(), key, []byte("me"))
	b.must(err)
	return h
}

func (b *bench) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func (b *bench) is(err, kind error) {
	b.Helper()
	if !errors.Is(err, kind) {
		b.Fatalf("got %v, want %v", err, kind)
	}
}

func (b *bench) close(s *Session) { b.Helper(); b.must(s.Close(context.Background())) }

func (b *bench) valid(h *Hold, want bool) {
	b.Helper()
	if h.Valid() != want {
		b.Fatalf("Valid is %v, want %v (err %v)", !want, want, h.Err())
	}
}

func isDone(c <-chan struct{}) bool {
	synctest.Wait()
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// seen counts state events.
func (b *bench) seen(fits func(StateEvent) bool) int {
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, e := range b.states {
		if fits(e) {
			n++
		}
	}
	return n
}
