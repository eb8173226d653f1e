package main

import (
	"context"
	"sort"
	"sync"
	"time"

	"github.com/holdfast-dcs/holdfast/examples/internal/event"
)

// leadership is the time in which one member was the primary, as it reported it.
type leadership struct {
	member   string
	token    uint64  // of its first lock
	raised   []raise // the locks that it took later
	start    int64   // CLOCK_MONOTONIC, nanoseconds
	end      int64   // when its database had stopped; 0 while it goes on
	deadline int64   // where it ends without a further renewal of its lock or acceptance of all members
	ending   string
	frozen   bool // its process could not run at the end
}

// raise is a further lock of a leadership that has outlasted one in failsafe mode.
type raise struct {
	token uint64
	at    int64
}

// over returns the moment at which the member stopped to be primary or its deadline passed.
func (t leadership) over() int64 {
	if t.end != 0 {
		return min(t.end, t.deadline)
	}
	return t.deadline
}

// history collects the members' events and judges them.
type history struct {
	mu          sync.Mutex
	leaderships []*leadership
	following   map[string]int64 // per member: the stamp of its last "following"
	lost        map[uint64]bool  // tokens reported lost, released or fenced
	failed      error            // why nothing can be waited for any more
	repeated    int              // second "leading" events of one token
	changed     chan struct{}    // closed and replaced at every change
}

func newHistory() *history {
	return &history{following: map[string]int64{}, lost: map[uint64]bool{}, changed: make(chan struct{})}
}

func (h *history) byToken(token uint64) *leadership {
	for _, t := range h.leaderships {
		if t.token == token {
			return t
		}
	}
	return nil
}

// add takes one event of a member.
func (h *history) add(e event.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.byToken(e.Token)
	switch e.Event {
	case event.Leading:
		if t != nil {
			h.repeated++
		}
		h.leaderships = append(h.leaderships, &leadership{member: e.Member, token: e.Token, start: e.Mono, deadline: e.DeadlineMono})
	case event.Renewed:
		if t != nil {
			t.deadline = max(t.deadline, e.DeadlineMono)
		}
	case event.Retaken:
		if t != nil {
			t.raised = append(t.raised, raise{e.NewToken, e.Mono})
		}
	case event.Lost, event.Released, event.Fenced:
		if t != nil && t.end == 0 {
			t.end, t.ending = e.Mono, e.Event
		}
		h.lost[e.Token] = true
	case event.Following:
		h.following[e.Member] = e.Mono
	default:
		return
	}
	h.notify()
}

// died closes the hold of a killed member at the moment of its death.
func (h *history) died(member string, at int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, t := range h.leaderships {
		if t.member == member && t.end == 0 {
			t.end = at
		}
	}
	h.notify()
}

// froze notes that the process of a leader was stopped: its report of the end is late.
func (h *history) froze(token uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t := h.byToken(token); t != nil {
		t.frozen = true
	}
}

// ended returns a copy of the leadership with a token.
func (h *history) ended(token uint64) leadership {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t := h.byToken(token); t != nil {
		return *t
	}
	return leadership{}
}

// fail ends every wait with err.
func (h *history) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failed == nil {
		h.failed = err
	}
	h.notify()
}

func (h *history) notify() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// wait blocks until ok, which runs under the lock, says yes.
func (h *history) wait(ctx context.Context, ok func() bool) error {
	for {
		h.mu.Lock()
		yes, failed, changed := ok(), h.failed, h.changed
		h.mu.Unlock()
		switch {
		case failed != nil:
			return failed
		case yes:
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// present returns the leadership that goes on now, the latest one if the end of an
// earlier one has not been heard of. Call it inside wait, or with locked.
func (h *history) present() *leadership {
	var last *leadership
	for _, t := range h.leaderships {
		if t.end == 0 && (last == nil || t.start > last.start) {
			last = t
		}
	}
	return last
}

// leader returns a copy of the present leadership.
func (h *history) leader() (leadership, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t := h.present(); t != nil {
		return *t, true
	}
	return leadership{}, false
}

// judgement is the faults that the leaderships show.
type judgement struct {
	Overlaps int           // pairs of holders that were valid at once
	Overlap  time.Duration // the longest of them
	Fell     int           // tokens that did not rise
	Repeated int           // tokens with more than one "leading"
	Late     int           // primaries that had not stopped by their deadline
}

// judge looks at every leadership, in the order in which they began.
func (h *history) judge() judgement {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := append([]*leadership(nil), h.leaderships...)
	sort.Slice(all, func(i, j int) bool { return all[i].start < all[j].start })
	j := judgement{Repeated: h.repeated}
	var over int64
	var token uint64
	for i, t := range all {
		if i > 0 && t.start < over {
			j.Overlaps++
			j.Overlap = max(j.Overlap, time.Duration(over-t.start))
		}
		if t.token <= token {
			j.Fell++
		}
		if t.end > t.deadline && !t.frozen {
			j.Late++
		}
		over, token = max(over, t.over()), max(token, t.token)
		for _, r := range t.raised {
			if r.token <= token {
				j.Fell++
			}
			token = max(token, r.token)
		}
	}
	return j
}

// tokensBetween lists the tokens of locks that were taken in [from, to), in that order.
func (h *history) tokensBetween(from, to int64) []uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	var in []raise
	for _, t := range h.leaderships {
		for _, r := range append([]raise{{t.token, t.start}}, t.raised...) {
			if r.at >= from && r.at < to {
				in = append(in, r)
			}
		}
	}
	sort.Slice(in, func(i, j int) bool { return in[i].at < in[j].at })
	out := make([]uint64, 0, len(in))
	for _, r := range in {
		out = append(out, r.token)
	}
	return out
}

// overlapsBetween counts the holders that began in [from, to) while another one
// was valid.
func (h *history) overlapsBetween(from, to int64) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, t := range h.leaderships {
		if t.start < from || t.start >= to {
			continue
		}
		for _, o := range h.leaderships {
			if o != t && o.start < t.start && o.over() > t.start {
				n++
			}
		}
	}
	return n
}
