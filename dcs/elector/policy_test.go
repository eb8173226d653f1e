package elector

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs/cluster"
)

// E14: the default policy, and the reason of each refusal with the figures.
func TestDefaultPolicy(t *testing.T) {
	tags := map[string]json.RawMessage{"nofailover": json.RawMessage("true")}
	self := cluster.Member{Name: "a", Position: 100, State: cluster.StateRunning}
	for name, test := range map[string]struct {
		s    Situation
		want string // "" means that the member may lead
	}{
		"alone":      {Situation{View: &cluster.View{}}, ""},
		"nofailover": {Situation{View: &cluster.View{}, Self: cluster.Member{Name: "a", Tags: tags}}, `member "a" is tagged nofailover`},
		"finding": {
			Situation{View: &cluster.View{}, Findings: []cluster.Finding{{Member: "a", Kind: cluster.WrongMember, Detail: "x"}}},
			`wrong member`,
		},
		"stored position differs": {Situation{View: &cluster.View{}, Findings: []cluster.Finding{{Member: "a", Kind: cluster.PositionDiffers}}}, ""},
		"lag": {
			Situation{View: &cluster.View{Status: cluster.Status{Position: 111}, Config: cluster.Config{MaxLag: 10}}},
			"position 100 is 11 behind the last known position 111 of the leader, at most 10 is allowed",
		},
		"allowed lag": {Situation{View: &cluster.View{Status: cluster.Status{Position: 110}, Config: cluster.Config{MaxLag: 10}}}, ""},
		"ahead":       {Situation{View: view(cluster.Member{Name: "b", Position: 101})}, `member "b" is ahead: its position is 101 (stored 101), that of this member 100`},
		"live figure": {
			Situation{View: view(cluster.Member{Name: "b", Position: 90}), Live: map[string]cluster.Identity{"b": {Position: 101}}},
			"its position is 101 (stored 90)",
		},
		"ahead and failed": {Situation{View: view(cluster.Member{Name: "b", Position: 101, State: cluster.StateFailed})}, ""},
		"ahead and failed since": {
			Situation{View: view(cluster.Member{Name: "b", Position: 101}), Live: map[string]cluster.Identity{"b": {Position: 101, State: cluster.StateFailed}}}, "",
		},
		"ahead and unreachable": {
			Situation{View: view(cluster.Member{Name: "b", Position: 101}), Findings: []cluster.Finding{{Member: "b", Kind: cluster.Unreachable}}}, "",
		},
		"ahead and never leads": {Situation{View: view(cluster.Member{Name: "b", Position: 101, Tags: tags})}, ""},
		"ahead and hands over": {
			Situation{View: func() *cluster.View {
				v := view(cluster.Member{Name: "b", Position: 101})
				v.Failover = &cluster.Failover{Leader: "b", Candidate: "a", Token: 7}
				return v
			}()}, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if test.s.Self.Name == "" {
				test.s.Self = self
			}
			err := DefaultPolicy(test.s)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func view(m ...cluster.Member) *cluster.View { return &cluster.View{Members: m} }

// E14: the member that is ahead leads, by the positions that the members report now.
func TestAheadLeads(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.put(t, cluster.LeaderKey, "x")
		a := w.start("a", asked(w, nil))
		b := w.start("b", asked(w, nil))
		pass(time.Second)
		b.svc.do(func() { b.svc.position = 5 }) // newer than its record
		w.server.Delete("default", cluster.Key(scope, cluster.LeaderKey))
		w.leads(b)
		if a.svc.promotes > 0 {
			t.Error("the member that is behind has led")
		}
	})
}

// candidate is a Service that may refuse to lead.
type candidate struct {
	*fake
	eligible func() error
}

func (c candidate) Eligible(context.Context, *cluster.View) error { return c.eligible() }

// A service that refuses, and a policy or Eligible that panics or hangs, keep the
// member from leading, with the reason in Status.
func TestRefusals(t *testing.T) {
	for name, test := range map[string]struct {
		eligible func(w *world) error
		policy   Policy
		want     string
	}{
		"Eligible":        {eligible: func(*world) error { return errors.New("too old") }, want: "the service is not eligible: too old"},
		"Eligible panics": {eligible: func(*world) error { panic("x") }, want: "panicked: x"},
		"Policy":          {policy: func(Situation) error { return errors.New("not today") }, want: "not today"},
		"Policy panics":   {policy: func(Situation) error { panic("x") }, want: "panicked: x"},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				a := w.start("a", func(c *Config) {
					c.Policy = test.policy
					if test.eligible != nil {
						c.Service = candidate{c.Service.(*fake), func() error { return test.eligible(w) }}
					}
				})
				pass(time.Minute)
				if err := a.e.Status().Refusal; a.svc.promotes > 0 || err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("refusal %v, want %q", err, test.want)
				}
			})
		})
	}
}

// follower is a Service that follows.
type follower struct {
	*fake
	follow func(context.Context, cluster.Member) error
}

func (f follower) Follow(ctx context.Context, m cluster.Member) error { return f.follow(ctx, m) }

// Follow is called for each new leader, tried again when it fails, and ended when the
// leader is gone, so that this member can lead (E8).
func TestFollow(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.start("a", func(c *Config) { c.Member.ConnURL = "conn-a" })
		w.leads(a)
		var calls []string
		fail := true
		b := w.start("b", func(c *Config) {
			f := c.Service.(*fake)
			c.Service = follower{f, func(ctx context.Context, m cluster.Member) error {
				defer f.enter("Follow " + m.Name)()
				f.do(func() { calls = append(calls, m.Name+" "+m.ConnURL) })
				if fail {
					fail = false
					return errors.New("no")
				}
				<-ctx.Done()
				return ctx.Err()
			}}
		})
		pass(time.Minute)
		b.svc.do(func() {
			if got := strings.Join(calls, ","); got != "a conn-a,a conn-a" {
				t.Errorf("calls %s", got)
			}
		})
		a.stop()
		w.leads(b)
	})
}
