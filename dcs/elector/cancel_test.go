package elector

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/cluster"
	"github.com/holdfast-dcs/holdfast/memstore"
)

// E15: any member cancels a switchover that was not accepted, and then the leader goes on.
func TestCancelSwitchover(t *testing.T) {
	for name, request := range map[string]func(t *testing.T, w *world, a *member){
		"scheduled": func(t *testing.T, _ *world, a *member) {
			if err := a.e.Switchover(t.Context(), Request{Candidate: "b", At: time.Now().Add(time.Hour)}); err != nil {
				t.Fatal(err)
			}
		},
		"standing in a pause": func(t *testing.T, w *world, _ *member) {
			w.put(t, cluster.ConfigKey, `{"pause":true}`)
			w.put(t, cluster.FailoverKey, `{"leader":"a","member":"b"}`)
		},
		"unreadable": func(t *testing.T, w *world, _ *member) { w.put(t, cluster.FailoverKey, `{"leader":1}`) },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				a, b := w.pair()
				if err := b.e.CancelSwitchover(t.Context()); !errors.Is(err, ErrNoSwitchover) || !errors.Is(err, ErrRefused) {
					t.Fatalf("none is stored: %v", err)
				}
				request(t, w, a)
				pass(time.Second)
				if err := b.e.CancelSwitchover(t.Context()); err != nil {
					t.Fatal(err)
				}
				w.put(t, cluster.ConfigKey, `{}`)
				pass(2 * time.Hour)
				if v := w.view(); v.Failover != nil || v.Problem(cluster.FailoverKey) != nil || a.e.Leading() == nil || b.svc.promotes > 0 {
					t.Errorf("%+v, leader %+v", v.Failover, v.Leader)
				}
				if err := b.e.CancelSwitchover(t.Context()); !errors.Is(err, ErrNoSwitchover) {
					t.Errorf("it is cancelled: %v", err)
				}
			})
		})
	}
}

// E15: a switchover that the leader has accepted goes on, also if that was between the
// read and the write of the cancellation.
func TestCancelAcceptedSwitchover(t *testing.T) {
	for _, meanwhile := range []bool{false, true} {
		inWorld(t, func(t *testing.T, w *world) {
			a, b := w.pair()
			a.svc.do(func() {
				a.svc.onDemote = func(context.Context, Reason) error { time.Sleep(2 * time.Second); return nil }
			})
			ctx, end := context.WithTimeout(t.Context(), time.Minute)
			defer end()
			answer, cancelled := make(chan error, 1), make(chan error, 1)
			if meanwhile {
				if err := a.e.Switchover(ctx, Request{Candidate: "b", At: time.Now().Add(time.Hour)}); err != nil {
					t.Fatal(err)
				}
			}
			held := w.server.Inject(memstore.Match{Op: memstore.OpCommit, Client: "b", Key: cluster.Key(scope, cluster.FailoverKey)}, memstore.Hold(), memstore.Once())
			if meanwhile {
				go func() { cancelled <- b.e.CancelSwitchover(ctx) }()
				w.wait(time.Minute, "the cancellation is held", func() bool { return held.Held() > 0 })
			}
			go func() { answer <- a.e.Switchover(ctx, Request{Candidate: "b"}) }()
			pass(time.Second)
			if !meanwhile {
				cancelled <- b.e.CancelSwitchover(ctx)
			}
			held.Release()
			if err := <-cancelled; !errors.Is(err, ErrRefused) || errors.Is(err, ErrNoSwitchover) {
				t.Errorf("cancellation: %v", err)
			}
			if err := <-answer; err != nil || b.e.Leading() == nil {
				t.Errorf("switchover: %v", err)
			}
		})
	}
}

// A cancellation whose outcome is not known says so.
func TestCancelSwitchoverInAnOutage(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.pair()
		if err := a.e.Switchover(t.Context(), Request{Candidate: "b", At: time.Now().Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
		held := w.server.Inject(memstore.Match{Op: memstore.OpCommit, Client: "b"}, memstore.HoldReply())
		cancelled := make(chan error, 1)
		go func() { cancelled <- b.e.CancelSwitchover(context.Background()) }()
		w.wait(time.Minute, "the answer is held", func() bool { return held.Held() > 0 })
		w.server.Down()
		if err := <-cancelled; !errors.Is(err, dcs.ErrAmbiguous) {
			t.Errorf("commit: %v", err)
		}
		if err := b.e.CancelSwitchover(t.Context()); err == nil || errors.Is(err, ErrRefused) {
			t.Errorf("read: %v", err)
		}
	})
}

// ReplaceConfig is the way out of a configuration that is not readable, which binds with
// its last readable content until then.
func TestReplaceUnreadableConfig(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.put(t, cluster.ConfigKey, `{"ttl":30,"pause":true}`)
		a := w.start("a")
		pass(time.Second)
		for _, value := range []string{`[1]`, `{"pause":"perhaps"}`} {
			w.put(t, cluster.ConfigKey, value)
			pass(time.Minute)
			if _, err := a.e.PatchConfig(t.Context(), []byte(`{"ttl":30}`)); !errors.Is(err, ErrRefused) || a.svc.promotes > 0 {
				t.Errorf("%s: %v, %d promotions", value, err, a.svc.promotes)
			}
			if _, err := a.e.ReplaceConfig(t.Context(), []byte(`{"ttl":30,"pause":true}`)); err != nil {
				t.Errorf("%s: %v", value, err)
			}
			if v := w.view(); v.Problem(cluster.ConfigKey) != nil || !v.Config.Pause {
				t.Errorf("%s: %+v", value, v.Config)
			}
		}
		if _, err := a.e.ReplaceConfig(t.Context(), []byte(`{"ttl":30}`)); err != nil {
			t.Error(err)
		}
		w.leads(a)
	})
}

// ReplaceConfig removes the fields that it does not set, and keeps the rules of a change.
func TestReplaceConfig(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.put(t, cluster.ConfigKey, `{"ttl":30,"failsafe_mode":false,"x":1}`)
		a, _ := w.pair()
		for _, value := range []string{``, `[]`, `{}`, `null`, `{"ttl":"long"}`, `{"ttl":15,"loop_wait":10,"retry_timeout":10}`, `{"loop_wait":-1}`} {
			if _, err := a.e.ReplaceConfig(t.Context(), []byte(value)); !errors.Is(err, ErrRefused) {
				t.Errorf("%q: %v", value, err)
			}
		}
		c, err := a.e.ReplaceConfig(t.Context(), []byte(`{"ttl":40,"loop_wait":10,"retry_timeout":10,"y":{"z":null}}`))
		if err != nil || c.TTL != 40*time.Second {
			t.Errorf("%+v, %v", c, err)
		}
		if got := w.view().Config; got.TTL != 40*time.Second || len(got.Extra) != 1 || string(got.Extra["y"]) != `{"z":null}` {
			t.Errorf("%+v", got)
		}
	})
}
