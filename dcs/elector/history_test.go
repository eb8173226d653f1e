package elector

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/cluster"
	"github.com/holdfast-dcs/holdfast/memstore"
)

// logs is the log of a member.
type logs struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// to is a change of a Config that logs to l.
func (l *logs) to(c *Config) { c.Logger = slog.New(slog.NewTextHandler(l, nil)) }

// with returns the lines that contain text.
func (l *logs) with(text string) (lines []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		if strings.Contains(line, text) {
			lines = append(lines, line)
		}
	}
	return lines
}

// short is a line of the history without its time.
type short struct {
	number   int64
	position int64
	reason   string
	leader   string
}

// history requires the lines of the history, the times of which must be in order.
func (w *world) history(want ...short) {
	w.t.Helper()
	h := w.view().History
	last := ""
	for i, l := range h {
		if i < len(want) && (short{l.Timeline, l.Position, l.Reason, l.Leader}) != want[i] || l.Time <= last {
			w.t.Errorf("line %d is %+v, want %+v", i, l, want)
		}
		last = l.Time
	}
	if len(h) != len(want) {
		w.t.Errorf("%d lines, want %d: %+v", len(h), len(want), h)
	}
}

func (w *world) token() int64 { return int64(w.view().Leader.Token) }

var historyKey = cluster.Key(scope, cluster.HistoryKey)

// Each leadership of a service without timelines is one line with its token. The oldest
// ones beyond the setting of Patroni are dropped.
func TestHistory(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.pair()
		a.svc.do(func() { a.svc.position = 7 })
		pass(time.Second)
		first := short{w.token(), 0, "lock was free", "a"}
		w.history(first)
		if got, want := w.view().History[0].Time, a.svc.promoted.UTC().Format("2006-01-02T15:04:05.000000+00:00"); got != want {
			t.Errorf("time %q, want %q", got, want)
		}
		b.svc.do(func() { b.svc.position = 5 })
		pass(11 * time.Second)
		if err := a.e.Switchover(t.Context(), Request{Candidate: "b"}); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		second := short{w.token(), 5, `switchover from "a"`, "b"}
		w.history(first, second)
		w.put(t, cluster.ConfigKey, `{"max_timelines_history":2}`)
		b.stop()
		w.leads(a)
		pass(time.Second)
		w.history(second, short{w.token(), 7, "lock was free", "a"})
		a.stop()
		w.leads(w.openAs("a2", "a").start()) // another leadership of the same member
		pass(time.Second)
		if h := w.view().History; len(h) != 2 || h[1].Timeline != w.token() {
			t.Errorf("%+v", h)
		}
	})
}

// A service with timelines adds a line when its timeline has risen, with the one that
// ended, as Patroni does. A report from before the promotion adds none.
func TestHistoryOfTimelines(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var mu sync.Mutex
		timeline := int64(1)
		start := func(name string) *member {
			m := w.open(name)
			m.svc.onReport = func() (cluster.Member, error) {
				mu.Lock()
				defer mu.Unlock()
				r := cluster.Member{Role: cluster.RoleReplica, State: cluster.StateRunning, Position: 100, Timeline: timeline}
				if m.svc.is() {
					r.Role = cluster.RolePrimary
				}
				return r, nil
			}
			return m.start()
		}
		a := start("a")
		w.leads(a)
		pass(time.Minute)
		w.history() // the first timeline
		b := start("b")
		w.wait(time.Minute, "b is published", func() bool { return w.published("b") })
		over := func(from, to *member) {
			t.Helper()
			if err := from.e.Switchover(t.Context(), Request{Candidate: to.name}); err != nil {
				t.Fatal(err)
			}
			pass(11 * time.Second)
		}
		over(a, b)
		w.history() // the timeline has not risen yet
		mu.Lock()
		timeline = 2
		mu.Unlock()
		pass(11 * time.Second)
		first := short{1, 100, `switchover from "a"`, "b"}
		w.history(first)
		over(b, a)
		w.history(first)
		mu.Lock()
		timeline = 5
		mu.Unlock()
		pass(11 * time.Second)
		w.history(first, short{4, 100, `switchover from "b"`, "a"})
		mu.Lock()
		timeline = 3 // other data
		mu.Unlock()
		over(a, b)
		w.history(first, short{4, 100, `switchover from "b"`, "a"})
	})
}

// Lines of others, and lines that are not readable, stay as they are. So does a history
// that is not readable.
func TestHistoryOfOthers(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		const stored = `[[1,2,"x"],"odd",[3,4,"y","t","z",{"more":1}]]`
		w.put(t, cluster.HistoryKey, stored)
		w.put(t, cluster.ConfigKey, `{"max_timelines_history":3}`)
		a := w.start("a")
		w.leads(a)
		pass(time.Second)
		value, err := w.view().History.MarshalJSON()
		if want := strings.TrimSuffix(stored, "]") + ",["; err != nil || !strings.HasPrefix(string(value), want) || len(w.view().History) != 4 {
			t.Errorf("%s, %v", value, err)
		}
	})
	inWorld(t, func(t *testing.T, w *world) {
		const stored = `{"a":1}`
		w.put(t, cluster.HistoryKey, stored)
		var l logs
		a := w.start("a", l.to)
		w.leads(a)
		pass(5 * time.Minute)
		for _, e := range w.server.Entries("default") {
			if e.Key == historyKey && string(e.Value) != stored {
				t.Errorf("%s", e.Value)
			}
		}
		if lines := l.with("history"); len(lines) != 1 || !strings.Contains(lines[0], "is not readable and stays as it is: remove the key") {
			t.Errorf("%q", lines)
		}
		w.server.Delete("default", historyKey)
		pass(time.Second)
		w.history(short{w.token(), 0, "lock was free", "a"})
	})
}

// A history that cannot be written is tried again once a LoopWait and logged once. It
// demotes nobody, and the answer to a switchover does not wait for it.
func TestHistoryCannotBeWritten(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		failing := w.server.Inject(memstore.Match{Op: memstore.OpCommit, Key: historyKey}, memstore.Refuse(&dcs.Error{Kind: dcs.ErrUnauthorized, Err: errors.New("read only")}))
		var l logs
		a, b := w.pair(l.to)
		if err := a.e.Switchover(t.Context(), Request{Candidate: "b"}); err != nil {
			t.Fatal(err)
		}
		before := failing.Hits()
		pass(time.Minute)
		if n := failing.Hits() - before; n < 5 || n > 7 || b.e.Leading() == nil || len(b.svc.demotes) > 0 {
			t.Errorf("%d attempts in 6 LoopWaits, leading %v", n, b.e.Leading())
		}
		if lines := l.with("history"); len(lines) != 2 { // one for each leadership
			t.Errorf("%q", lines)
		}
		failing.Lift()
		pass(11 * time.Second)
		w.history(short{w.token(), 0, `switchover from "a"`, "b"})
		hung := w.server.Inject(memstore.Match{Op: memstore.OpCommit, Key: historyKey}, memstore.Hang())
		begin := time.Now()
		if err := b.e.Switchover(t.Context(), Request{Candidate: "a"}); err != nil {
			t.Fatal(err)
		}
		between(t, "answer", time.Since(begin), 0, time.Second)
		pass(time.Minute)
		if a.e.Leading() == nil || len(a.svc.demotes) > 1 || hung.Hits() == 0 {
			t.Error("demoted")
		}
	})
}

// A line whose answer is lost is stored once.
func TestHistoryAnswerLost(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		lost := w.server.Inject(memstore.Match{Op: memstore.OpCommit | memstore.OpSettle, Key: historyKey}, memstore.DropReply())
		a := w.start("a")
		w.leads(a)
		w.wait(time.Minute, "the line is stored", func() bool { return len(w.view().History) > 0 })
		pass(time.Minute)
		lost.Lift()
		pass(time.Minute)
		w.history(short{w.token(), 0, "lock was free", "a"})
	})
}

// A leader that has lost its lock adds no line.
func TestHistoryIsGuarded(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		late := w.server.Inject(memstore.Match{Op: memstore.OpCommit, Key: historyKey}, memstore.Hold(), memstore.Once())
		a := w.start("a")
		w.wait(time.Minute, "the write is held", func() bool { return late.Held() > 0 })
		w.server.Inject(memstore.Match{Op: memstore.OpCommit, Key: historyKey}, memstore.Hang())
		w.server.Delete("default", cluster.Key(scope, cluster.LeaderKey))
		w.put(t, cluster.LeaderKey, "x")
		late.Release()
		pass(time.Minute)
		w.history()
		if a.svc.is() {
			t.Error("primary")
		}
	})
}

// A leadership whose promotion fails has no line, and neither has one that goes on
// under another lock or in another process.
func TestHistoryOfOtherBeginnings(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.open("a")
		failing := true
		a.svc.onPromote = func(context.Context) error {
			if failing {
				failing = false
				return errors.New("not now")
			}
			return nil
		}
		a.start()
		w.leads(a)
		pass(time.Second)
		first := short{w.token(), 0, "lock was free", "a"}
		w.history(first)
		w.pause(a)
		pass(time.Second)
		w.server.Down()
		pass(time.Minute)
		w.server.Up()
		w.leads(a)
		pass(time.Minute)
		if w.history(first); w.token() == first.number {
			t.Error("the lock was not taken again")
		}
		a.stop()
		w.leads(w.restart(a, "a2"))
		pass(time.Minute)
		w.history(first)
	})
}

// The history costs one commit for each leadership, after the promotion.
func TestHistoryCost(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, _ := w.pair()
		pass(time.Minute)
		lines := w.server.Inject(memstore.Match{Op: memstore.OpCommit, Key: historyKey}, memstore.Delay(0))
		guarded := w.server.Inject(memstore.Match{Op: memstore.OpCommit, Key: cluster.Key(scope, cluster.LeaderKey)}, memstore.Delay(0))
		if err := a.e.Switchover(t.Context(), Request{Candidate: "b"}); err != nil {
			t.Fatal(err)
		}
		pass(10 * time.Minute)
		if n := lines.Hits(); n != 1 {
			t.Errorf("%d commits of the history", n)
		}
		t.Logf("%d commits of a switchover, with those after Promote", guarded.Hits())
	})
}

// The bound of the history comes from the configuration, within limits.
func TestHistoryLimit(t *testing.T) {
	for value, want := range map[string]int{`5`: 5, `0`: defaultHistory, `-1`: defaultHistory, `"x"`: defaultHistory, `1000000`: maxHistory} {
		e := &Elector{loop: loop{view: &cluster.View{Config: cluster.Config{Extra: cluster.Extra{historySetting: json.RawMessage(value)}}}}}
		if got := e.historyLimit(); got != want {
			t.Errorf("%s: %d, want %d", value, got, want)
		}
	}
}
