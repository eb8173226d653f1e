package elector

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/cluster"
)

// longest is the greatest length of a reason that a test accepts: that of the text of
// another member, and the words around it.
const longest = maxReason + 200

// long is a text that another member chooses.
var long = strings.Repeat("é", 30<<10)

// isShort requires that err has a text, and a short one.
func isShort(t *testing.T, text string, err error) {
	t.Helper()
	if err == nil || len(err.Error()) > longest {
		t.Errorf("%s has %d bytes: %.100v", text, len(fmt.Sprint(err)), err)
	}
}

// The text of another member is cut in refusals, in answers and in the log.
func TestLongReasons(t *testing.T) {
	answers := map[string]func(name string, id cluster.Identity) (cluster.Identity, error){
		"name":     func(_ string, id cluster.Identity) (cluster.Identity, error) { id.Name = long; return id, nil },
		"instance": func(_ string, id cluster.Identity) (cluster.Identity, error) { id.Instance = long; return id, nil },
		"scope":    func(_ string, id cluster.Identity) (cluster.Identity, error) { id.Scope = long; return id, nil },
		"state":    func(_ string, id cluster.Identity) (cluster.Identity, error) { id.State = long; return id, nil },
		"error":    func(_ string, id cluster.Identity) (cluster.Identity, error) { return id, errors.New(long) },
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				var spoilt atomic.Bool
				ask := asked(w, func(of string, id cluster.Identity) (cluster.Identity, error) {
					if !spoilt.Load() {
						return id, nil
					}
					return answer(of, id)
				})
				var l logs
				a, b := w.pair(ask, l.to)
				spoilt.Store(true)
				isShort(t, "switchover", a.e.Switchover(t.Context(), Request{Candidate: "b"}))
				isShort(t, "switchover to any", a.e.Switchover(t.Context(), Request{}))
				w.put(t, cluster.FailoverKey, `{"leader":"a","member":"b"}`)
				pass(5 * time.Second)
				if name != "state" { // which disqualifies nobody
					a.stop()
					pass(5 * time.Second)
					isShort(t, "refusal", b.e.Status().Refusal)
				}
				for _, line := range l.with("") {
					if len(line) > longest {
						t.Errorf("a line of the log has %d bytes: %.200s", len(line), line)
					}
				}
			})
		})
	}
}

// So is it in failsafe mode, in both directions.
func TestLongReasonsInFailsafe(t *testing.T) {
	inFailsafe(t, func(t *testing.T, w *world, l *links) {
		var log logs
		a := w.safe(l, "a", "a", log.to).start()
		w.leads(a)
		b, _ := w.safe(l, "b", "b").start(), w.safe(l, "c", "c").start()
		w.listed("a", "b", "c")
		r := FailsafeRequest{Scope: long, Name: long, Instance: "i", Token: 1, TTL: time.Minute, Member: "b"}
		for _, scope := range []string{long, scope} {
			r.Scope = scope
			answer, err := b.e.AcceptFailsafe(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			isShort(t, "answer", errors.New(answer.Reason))
		}
		l.do(func() {
			l.spoil = func(to string, r FailsafeRequest) (FailsafeAnswer, error, bool) {
				if to == "c" {
					return FailsafeAnswer{Scope: long, Name: long, Instance: long}, nil, true
				}
				return FailsafeAnswer{Scope: r.Scope, Name: to, Instance: "i", Reason: long}, nil, true
			}
		})
		w.server.Down()
		pass(time.Minute)
		members := a.e.Status().Failsafe.Members
		if len(members) != 3 {
			t.Errorf("%d answers", len(members))
		}
		for _, m := range members {
			if m.Name != "a" {
				isShort(t, m.Name, m.Err)
			}
		}
		for _, line := range log.with("") {
			if len(line) > longest {
				t.Errorf("a line of the log has %d bytes: %.200s", len(line), line)
			}
		}
	})
}

// A reason that is cut keeps its kinds.
func TestBrief(t *testing.T) {
	err := fmt.Errorf("%s: %w", long, &dcs.Error{Op: "x", Kind: dcs.ErrConflict})
	if got := brief(err); !errors.Is(got, dcs.ErrConflict) || len(got.Error()) > maxReason || !strings.HasSuffix(got.Error(), "é…") {
		t.Errorf("%d bytes: %.100v", len(got.Error()), got)
	}
	if short := errors.New("x"); !errors.Is(brief(short), short) || brief(short).Error() != "x" || brief(nil) != nil {
		t.Error("a short error is changed")
	}
}
