package elector

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs/cluster"
)

// stuck is a network that ignores the context of questions to one address, and counts
// those that have not returned.
type stuck struct {
	network

	mu         sync.Mutex
	url        string // the address, while it is stuck
	release    chan struct{}
	open, most int
}

// getStuck configures a member with a network that can get stuck.
func getStuck(s *stuck) func(*Config) {
	return func(c *Config) {
		s.network = c.Failsafe.(network)
		c.Asker, c.Failsafe = s, s
	}
}

// on makes the address of a member stuck.
func (s *stuck) on(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.url, s.release = "http://"+name+"/", make(chan struct{})
}

// off releases every question.
func (s *stuck) off() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.url = ""
	close(s.release)
}

// counts returns the number of questions that have not returned, and the highest one.
func (s *stuck) counts() (open, most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open, s.most
}

func (s *stuck) wait(url string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if url != s.url {
		return
	}
	s.open++
	s.most = max(s.most, s.open)
	release := s.release
	s.mu.Unlock()
	select {
	case <-release:
	case <-s.w.end:
	}
	s.mu.Lock()
	s.open--
}

func (s *stuck) Ask(ctx context.Context, apiURL string) (cluster.Identity, error) {
	s.wait(apiURL)
	return s.network.Ask(ctx, apiURL)
}

func (s *stuck) AskFailsafe(ctx context.Context, apiURL string, r FailsafeRequest) (FailsafeAnswer, error) {
	s.wait(apiURL)
	return s.network.AskFailsafe(ctx, apiURL, r)
}

// E7, F4: an Asker that ignores its context at this member's own address keeps the
// member from the lock, with the reason, until the question returns. It delays neither
// decisions nor the end of Run.
func TestAskerStuckAtItself(t *testing.T) {
	inFailsafe(t, func(t *testing.T, w *world, l *links) {
		var s stuck
		a := w.safe(l, "a", "a").start()
		w.leads(a)
		b := w.safe(l, "b", "b", getStuck(&s)).start()
		w.listed("a", "b")
		pass(2 * time.Minute)
		s.on("b")
		a.stop()
		pass(15 * time.Second)
		if err := b.e.Status().Refusal; err == nil || !strings.Contains(err.Error(), "does not reach itself") {
			t.Errorf("refusal: %v", err)
		}
		pass(2 * time.Minute)
		if open, most := s.counts(); open != 1 || most != 1 || b.svc.is() {
			t.Errorf("%d questions are open, at most %d were, primary %v", open, most, b.svc.is())
		}
		s.off()
		w.leads(b)
		s.on("b")
		pass(time.Minute)
		begin := time.Now()
		b.stop()
		between(t, "end", time.Since(begin), 0, 2100*time.Millisecond)
	})
}

// E14: an Asker that ignores its context at the address of another member is asked once
// at a time, however often this member decides.
func TestAskerStuckAtAnother(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var s stuck
		l := newLinks()
		a := w.safe(l, "a", "a").start()
		w.leads(a)
		w.safe(l, "c", "c", func(c *Config) { c.Policy = func(Situation) error { return errors.New("never") } }).start()
		b := w.safe(l, "b", "b", getStuck(&s), func(c *Config) {
			c.Policy = func(s Situation) error {
				if time.Since(epoch) < 150*time.Second {
					return errors.New("not yet")
				}
				return DefaultPolicy(s)
			}
		}).start()
		pass(time.Minute)
		s.on("c")
		a.stop()
		w.leads(b)
		if _, most := s.counts(); most != 1 {
			t.Errorf("%d questions to one member at a time", most)
		}
	})
}

// E7, F2: a transport that ignores its context ends the leadership in time, and has one
// question to a member at a time.
func TestTransportStuck(t *testing.T) {
	for _, name := range []string{"a", "c"} { // its own address too
		t.Run(name, func(t *testing.T) {
			inFailsafe(t, func(t *testing.T, w *world, l *links) {
				var s stuck
				a := w.safe(l, "a", "a", getStuck(&s)).start()
				w.leads(a)
				w.safe(l, "b", "b").start()
				w.safe(l, "c", "c").start()
				w.listed("a", "b", "c")
				w.server.Down()
				pass(time.Minute)
				lead := a.e.Leading()
				if lead == nil {
					t.Fatal("not accepted")
				}
				s.on(name)
				w.wait(time.Minute, "a demotes", func() bool { _, n, _ := a.svc.calls(); return n > 0 })
				at, _ := lead.Deadline()
				b := a.e.Status().Table
				between(t, "deadline after the demotion", -at.Elapsed(), b.Deadline-b.Demote-20*time.Millisecond, b.Deadline-b.Demote)
				pass(time.Minute)
				if answers := a.e.Status().Failsafe.asked(); !strings.Contains(answers, name+" false") {
					t.Errorf("answers: %q", answers)
				}
				if open, most := s.counts(); open != 1 || most != 1 || a.svc.is() || a.svc.fences > 0 {
					t.Errorf("%d questions are open, at most %d were, primary %v, %d fences", open, most, a.svc.is(), a.svc.fences)
				}
			})
		})
	}
}

// A question that panics or ends its goroutine is an error, and the address is asked
// again.
func TestCallEnds(t *testing.T) {
	var c calls
	for name, f := range map[string]func(){"panicked": func() { panic("no") }, "ended its goroutine": runtime.Goexit} {
		if _, err := call(t.Context(), &c, "Ask", "url", func() (int, error) { f(); return 0, nil }); err == nil || !strings.Contains(err.Error(), "Ask "+name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n, err := call(t.Context(), &c, "Ask", "url", func() (int, error) { return 7, nil }); n != 7 || err != nil || len(c.open) > 0 {
		t.Errorf("%d, %v, %d questions are open", n, err, len(c.open))
	}
}
