package elector

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/cluster"
	"github.com/holdfast-dcs/holdfast/memstore"
)

// refuses requires that a leads and refuses to hand over to a member, with a reason.
func refuses(t *testing.T, a *member, candidate, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := a.e.Switchover(ctx, Request{Candidate: candidate}); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
	pass(time.Second)
	if a.e.Leading() == nil || len(a.svc.demotes) > 0 {
		t.Error("demoted")
	}
}

// E15: while a switchover stands that a leader has accepted, no other one is.
func TestSwitchoverUnderWay(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, _ := w.pair()
		failover := memstore.Match{Client: "a", Op: memstore.OpCommit, Key: cluster.Key(scope, cluster.FailoverKey)}
		clearing := w.server.Inject(failover, memstore.Refuse(&dcs.Error{Kind: dcs.ErrUnauthorized, Err: errors.New("read only")}))
		w.put(t, cluster.FailoverKey, `{"leader":"x","member":"c","token":1}`)
		w.wait(time.Minute, "a has read it", func() bool { return clearing.Hits() > 0 })
		refuses(t, a, "b", `a switchover to "c" is under way`)
		if f := w.view().Failover; f == nil || f.Candidate != "c" {
			t.Errorf("%+v", f)
		}
	})
}

// F4, E15: a member that is not in the failsafe list would not take the lock.
func TestSwitchoverToUnlisted(t *testing.T) {
	inFailsafe(t, func(t *testing.T, w *world, l *links) {
		a, _, _ := w.trio(l)
		w.server.Inject(memstore.Match{Client: "a", Op: memstore.OpCommit, Key: cluster.Key(scope, cluster.FailsafeKey)}, memstore.Refuse(&dcs.Error{Kind: dcs.ErrUnauthorized, Err: errors.New("read only")}))
		w.safe(l, "d", "d").start()
		w.wait(time.Minute, "d is published", func() bool { return w.published("d") })
		refuses(t, a, "d", `member "d" is not in the failsafe list`)
		if f := w.view().Failover; f != nil {
			t.Errorf("%+v", f)
		}
	})
}

// E4: a store that grants a TTL which leaves no time to demote ends Run before the lock
// is taken.
func TestGrantedTTLIsTooShort(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.server.LimitTTL(15 * time.Second)
		a := w.start("a", func(c *Config) {
			c.Timing.Timing = dcs.Timing{TTL: 30 * time.Second, LoopWait: 3 * time.Second, RetryTimeout: 3 * time.Second}
			c.Timing.StopTimeout = 10 * time.Second // fits 30 s, and not 15 s
		})
		select {
		case <-a.ended:
		case <-time.After(time.Minute):
			t.Fatal("Run goes on")
		}
		if !errors.Is(a.err, dcs.ErrInvalid) || !strings.Contains(a.err.Error(), "StopTimeout 10s") {
			t.Error(a.err)
		}
		if promotes, _, _ := a.svc.calls(); promotes > 0 || w.view().Leader != nil || w.published("a") {
			t.Errorf("%d promotions, leader %+v", promotes, w.view().Leader)
		}
	})
}
