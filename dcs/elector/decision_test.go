package elector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs/cluster"
	"github.com/holdfast-dcs/holdfast/memstore"
)

// E10: each key of the decision counts: one that is stored before the acquisition makes it
// fail, and one that is stored after it is seen before Promote.
func TestDecisionRestsOnEachKey(t *testing.T) {
	for key, value := range map[string]string{
		cluster.ConfigKey:   `{"pause":true}`,
		cluster.FailsafeKey: `{"x":"http://x/"}`,
		cluster.FailoverKey: `{"leader":"x","member":"y","token":1}`,
		cluster.KeeperKey:   `{"name":"x","instance":"i","token":7}`,
	} {
		for _, op := range []memstore.Op{memstore.OpCommit, memstore.OpRenew} {
			t.Run(fmt.Sprint(key, " before ", op), func(t *testing.T) {
				inWorld(t, func(t *testing.T, w *world) {
					a := w.changedMeanwhile(t, op, key, value)
					pass(5 * time.Second)
					if v := w.view(); a.svc.promotes > 0 || v.Leader != nil {
						t.Errorf("%d promotions, leader %+v", a.svc.promotes, v.Leader)
					}
				})
			})
		}
	}
}

// changedMeanwhile starts a member and stores a key that it cannot see while it takes the
// lock, before its Commit (OpCommit) or before its Confirm (OpRenew).
func (w *world) changedMeanwhile(t *testing.T, op memstore.Op, key, value string) *member {
	t.Helper()
	a := w.open("a")
	m := memstore.Match{Op: op, Client: "a"}
	if op == memstore.OpCommit {
		m.Key = cluster.Key(scope, cluster.LeaderKey)
	}
	held := w.server.Inject(m, memstore.Hold(), memstore.Once())
	a.start()
	w.wait(time.Minute, "the call is held", func() bool { return held.Held() > 0 })
	w.server.FreezeWatch(memstore.Match{Client: "a"})
	w.put(t, key, value)
	held.Release()
	return a
}

// logged counts the records of a logger that contain a text.
type logged struct {
	slog.Handler
	text string

	mu sync.Mutex
	n  int
}

func (l *logged) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := r.Message
	r.Attrs(func(a slog.Attr) bool { found += " " + a.String(); return true })
	if strings.Contains(found, l.text) {
		l.n++
	}
	return nil
}

func (l *logged) Enabled(context.Context, slog.Level) bool { return true }
func (l *logged) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *logged) WithGroup(string) slog.Handler            { return l }

// E14: a refusal is logged once while its reason is the same, although it is decided each
// LoopWait.
func TestRefusalIsLoggedOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		log := &logged{text: "not taking the lock reason=not today"}
		var mu sync.Mutex
		reason, asked := errors.New("not today"), 0
		w.start("a", func(c *Config) {
			c.Logger = slog.New(log)
			c.Policy = func(Situation) error {
				mu.Lock()
				defer mu.Unlock()
				asked++
				return reason
			}
		})
		say := func(err error) {
			mu.Lock()
			reason = err
			mu.Unlock()
			pass(time.Minute)
		}
		say(errors.New("not today"))
		say(errors.New("still not"))
		say(errors.New("not today"))
		log.mu.Lock()
		defer log.mu.Unlock()
		if log.n != 2 || asked < 15 {
			t.Errorf("logged %d times, %d decisions", log.n, asked)
		}
	})
}

// A position that changes all the time is published once a LoopWait, so that it does not
// wake every member for nothing.
func TestPositionIsPublishedOnceALoopWait(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.pair()
		const loops = 30
		var writes []*memstore.Injection
		for _, key := range []string{"members/a", "members/b", cluster.StatusKey} {
			writes = append(writes, w.server.Inject(memstore.Match{Op: memstore.OpCommit, Key: cluster.Key(scope, key)}, memstore.Delay(0)))
		}
		for range loops * 100 { // of 100 ms
			for _, m := range []*member{a, b} {
				m.svc.do(func() { m.svc.position++ })
			}
			pass(100 * time.Millisecond)
		}
		for i, n := range writes {
			if got := n.Hits(); got < loops-2 || got > loops+2 {
				t.Errorf("key %d: %d writes in %d LoopWaits", i, got, loops)
			}
		}
	})
}
