package elector

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// asked returns the answers of the last round in one line.
func (s FailsafeStatus) asked() string {
	var all []string
	for _, m := range s.Members {
		all = append(all, fmt.Sprintf("%s %v", m.Name, m.Err == nil))
	}
	return strings.Join(all, ", ")
}

// Status shows, without the store, whether a leader is ready for an outage, until when
// the members have accepted it, and which member did not answer.
func TestFailsafeStatus(t *testing.T) {
	inFailsafe(t, func(t *testing.T, w *world, l *links) {
		alone := w.open("x").e.Status().Failsafe
		if alone.Enabled || alone.InForce() || alone.Blocked() {
			t.Errorf("before Run: %+v", alone)
		}
		a, b, _ := w.trio(l)
		s, sb := a.e.Status().Failsafe, b.e.Status().Failsafe
		if !s.Enabled || !s.Ready || s.InForce() || s.asked() != "" || !sb.Enabled || sb.Ready || sb.Blocked() {
			t.Errorf("before the outage: leader %+v, member %+v", s, sb)
		}
		w.server.Down()
		pass(time.Minute)
		s, sb = a.e.Status().Failsafe, b.e.Status().Failsafe
		at, _ := a.e.Leading().Deadline()
		if !s.InForce() || s.Until.Sub(at) != 0 || s.asked() != "a true, b true, c true" || !s.Ready {
			t.Errorf("in the outage: %+v, the deadline is in %v", s, -at.Elapsed())
		}
		between(t, "the last round", s.AskedAt.Elapsed(), 0, table(t).Renew)
		if !sb.Blocked() || sb.Leader != "a" || sb.InForce() {
			t.Errorf("member in the outage: %+v", sb)
		}
		l.do(func() { l.cut[[2]string{"a", "c"}] = true })
		w.wait(time.Minute, "a demotes", func() bool { return !a.svc.is() })
		s = a.e.Status().Failsafe
		if s.InForce() && a.e.Status().State == Following || s.asked() != "a true, b true, c false" {
			t.Errorf("after the demotion: %+v", s)
		}
		pass(time.Minute)
		if s, sb = a.e.Status().Failsafe, b.e.Status().Failsafe; s.InForce() || s.Ready || s.asked() != "a true, b true, c false" || sb.Blocked() {
			t.Errorf("later: %+v, member %+v", s, sb)
		}
	})
}

// A leader that has its lock again is ready for the next outage, and no more in force.
func TestFailsafeStatusAfterOutage(t *testing.T) {
	inFailsafe(t, func(t *testing.T, w *world, l *links) {
		a, b, _ := w.trio(l)
		w.server.Down()
		pass(time.Minute)
		w.server.Up()
		pass(2 * time.Minute)
		if s := a.e.Status().Failsafe; s.InForce() || !s.Ready || s.AskedAt.Elapsed() < time.Minute {
			t.Errorf("%+v", s)
		}
		if _, err := b.e.PatchConfig(t.Context(), []byte(`{"failsafe_mode":false}`)); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		if s := a.e.Status().Failsafe; s.Enabled || s.Ready {
			t.Errorf("%+v", s)
		}
	})
}
