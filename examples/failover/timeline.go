package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/holdfast-dcs/holdfast/examples/internal/event"
)

// timeline prints events as they happen: JSON events, or lines for
// people, with a live line of all members below them on a terminal.
type timeline struct {
	mu      sync.Mutex
	w       io.Writer
	json    *event.Log // nil unless JSON was asked for
	live    bool
	start   int64
	actNow  string
	h       *history
	c       *cluster
	client  *writer
	drawn   bool // the live line is on the screen
	stop    chan struct{}
	done    chan struct{}
	closing sync.Once
}

func newTimeline(asJSON bool, h *history) *timeline {
	t := &timeline{w: os.Stdout, h: h, start: event.Mono(), stop: make(chan struct{}), done: make(chan struct{})}
	switch {
	case asJSON:
		t.json = event.NewLog(os.Stdout)
	default:
		t.live = term.IsTerminal(int(os.Stdout.Fd()))
	}
	if !t.live {
		close(t.done)
	}
	return t
}

// watch starts the live line, where there is one.
func (t *timeline) watch(c *cluster, w *writer) {
	t.mu.Lock()
	t.c, t.client = c, w
	t.mu.Unlock()
	if !t.live {
		return
	}
	go func() {
		defer close(t.done)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				t.mu.Lock()
				t.draw()
				t.mu.Unlock()
			case <-t.stop:
				return
			}
		}
	}()
}

// close takes the live line off the screen, for good.
func (t *timeline) close() { t.closing.Do(t.shut) }

func (t *timeline) shut() {
	t.mu.Lock()
	running := t.c != nil && t.live
	t.mu.Unlock()
	close(t.stop)
	if running {
		<-t.done
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.erase()
	t.live = false
}

func (t *timeline) erase() {
	if t.drawn {
		_, _ = io.WriteString(t.w, "\r\x1b[K")
		t.drawn = false
	}
}

// draw writes the live line: the leader, for how long still, and the client.
func (t *timeline) draw() {
	if !t.live || t.c == nil {
		return
	}
	var b strings.Builder
	lead, ok := t.h.leader()
	for _, p := range t.c.all() {
		switch {
		case ok && lead.member == p.name:
			left := max(time.Duration(lead.deadline-event.Mono()), 0)
			fmt.Fprintf(&b, "\x1b[32m● %s leads, %.1fs left\x1b[0m   ", p.name, left.Seconds())
		default:
			fmt.Fprintf(&b, "○ %s   ", p.name)
		}
	}
	fmt.Fprintf(&b, "%d writes acknowledged", t.client.count())
	_, _ = io.WriteString(t.w, "\r\x1b[K"+b.String())
	t.drawn = true
}

func (t *timeline) line(at int64, member, text string) {
	t.erase()
	seconds := time.Duration(at - t.start).Seconds()
	_, _ = fmt.Fprintf(t.w, "%8.3fs  %-12s %-2s %s\n", seconds, t.actNow, member, text)
	t.draw()
}

// event shows one event of a member. Renewals are for the live line and for
// JSON only.
func (t *timeline) event(e event.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.json != nil {
		e.Act = t.actNow
		t.json.Emit(e)
		return
	}
	text := e.Event
	switch e.Event {
	case event.Renewed:
		return
	case event.Leading:
		text = fmt.Sprintf("leads, token %d", e.Token)
	case event.Retaken:
		text = fmt.Sprintf("goes on and has taken the lock again, token %d", e.NewToken)
	case event.Following:
		text = "follows " + e.Leader
	case event.Lost, event.Released, event.Fenced, event.Unknown:
		text = fmt.Sprintf("%s, token %d", e.Event, cmp.Or(e.NewToken, e.Token))
	}
	if e.Reason != "" && e.Event != event.Released {
		text += ": " + e.Reason
	}
	t.line(e.Mono, e.Member, text)
}

// act announces an act.
func (t *timeline) act(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.actNow = name
	if t.json != nil {
		t.json.Emit(event.Event{Event: event.Act, Act: name, Reason: actTitles[name]})
		return
	}
	t.erase()
	_, _ = fmt.Fprintf(t.w, "\n-- %s: %s\n", name, actTitles[name])
}

// note prints an action of the demonstration on a member.
func (t *timeline) note(member, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.json != nil {
		t.json.Emit(event.Event{Event: event.Act, Act: t.actNow, Member: member, Reason: text})
		return
	}
	t.line(event.Mono(), member, "** "+text)
}

var actTitles = map[string]string{
	"election":     "three empty nodes become a cluster and elect a leader",
	"switchover":   "the leader hands over to a member of its choice",
	"hang":         "the leader is to hand over, and its database does not stop",
	"kill":         "kill -9 of the leader, and a restart",
	"freeze":       "the leader is frozen for longer than its lease, and thawed",
	"failsafe":     "the store answers no member, and in failsafe mode all members accept the leader",
	"outage":       "the store answers no member for longer than the lease, without failsafe mode",
	"store-leader": "kill -9 of the Raft leader while another member leads",
	"disk-lost":    "kill -9 of the leader, whose data directory is lost",
	"replace":      "a fourth node joins, and the leader leaves for good",
}
