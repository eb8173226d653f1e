package main

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/holdfast-dcs/holdfast/examples/internal/event"
)

// writer writes numbered records through the leader all the time and remembers
// every acknowledgement.
type writer struct {
	c  *cluster
	mu sync.Mutex
	// acked holds, per acknowledged number, the moment of the answer.
	acked map[int]int64
	last  int64 // the moment of the last acknowledgement
	gaps  []gap
}

// gap is a pause between two acknowledgements.
type gap struct{ from, to int64 }

func newWriter(c *cluster) *writer { return &writer{c: c, acked: map[int]int64{}} }

// run writes until the context ends. A write that got no answer, or another
// one than yes, counts as unknown: the next one has a new number.
func (w *writer) run(ctx context.Context) {
	at := 0
	for n := 1; ctx.Err() == nil; n++ {
		members := w.c.all()
		p := members[at%len(members)]
		try, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		status, _, err := w.c.post(try, p, fmt.Sprintf("/write/%d", n))
		cancel()
		if err == nil && status == http.StatusNoContent {
			w.ack(n)
			pause(ctx, 2*time.Millisecond)
			continue
		}
		at = (at + 1) % len(members)
		pause(ctx, 5*time.Millisecond)
	}
}

func (w *writer) ack(n int) {
	now := event.Mono()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.acked[n] = now
	if w.last != 0 {
		w.gaps = append(w.gaps, gap{w.last, now})
	}
	w.last = now
}

// count returns how many writes have been acknowledged.
func (w *writer) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

// between returns the acknowledgements and the longest pause in a time.
func (w *writer) between(from, to int64) (acks int, longest time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, at := range w.acked {
		if at >= from && at < to {
			acks++
		}
	}
	for _, g := range w.gaps {
		if g.to >= from && g.from < to {
			longest = max(longest, time.Duration(g.to-g.from))
		}
	}
	return acks, longest
}

// missing returns the moments of the acknowledged writes that stored does not
// hold.
func (w *writer) missing(stored map[string]bool) []int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []int64
	for n, at := range w.acked {
		if !stored[fmt.Sprint(n)] {
			out = append(out, at)
		}
	}
	return out
}
