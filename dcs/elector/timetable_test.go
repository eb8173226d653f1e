package elector

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

func TestTimetableOfTheDefaults(t *testing.T) {
	got, err := Timetable(Timing{Failsafe: true})
	if err != nil {
		t.Fatal(err)
	}
	s := time.Second
	want := Table{
		Renew: 10 * s, Retried: 20 * s, Ask: 20 * s, Demote: 22 * s, Fence: 28400 * time.Millisecond, Guardian: 28900 * time.Millisecond,
		Deadline: 29400 * time.Millisecond, Others: 30 * s, Gate: 15 * s,
	}
	want.Demote = want.Deadline - 7400*time.Millisecond // E4 leaves that much with asking
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	plain, err := Timetable(Timing{})
	if err != nil || plain.Ask != plain.Demote || plain.Demote != plain.Deadline-7500*time.Millisecond {
		t.Errorf("without failsafe: %+v, %v", plain, err)
	}
}

// Every timing that is accepted keeps the order of its moments (E4), and the
// defaults of a timing that dcs accepts leave time to demote.
func TestTimetableKeepsItsOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	ms := func(n int) time.Duration { return time.Duration(r.IntN(n)) * time.Millisecond }
	accepted := 0
	for range 20000 {
		in := Timing{
			Timing:      dcs.Timing{TTL: ms(60000), LoopWait: ms(20000), RetryTimeout: ms(20000)},
			StopTimeout: ms(10000) * time.Duration(r.IntN(2)), FenceTimeout: ms(2000) * time.Duration(r.IntN(2)), Failsafe: r.IntN(2) == 0,
		}
		b, err := Timetable(in)
		if err != nil {
			if !errors.Is(err, dcs.ErrInvalid) {
				t.Fatalf("%+v: %v", in, err)
			}
			continue
		}
		accepted++
		if !(b.Renew <= b.Retried && b.Retried <= b.Ask && b.Ask <= b.Demote && b.Demote < b.Fence && b.Fence < b.Guardian && b.Guardian < b.Deadline && b.Deadline < b.Others) {
			t.Fatalf("%+v: %+v", in, b)
		}
	}
	if accepted < 500 {
		t.Errorf("only %d timings were accepted", accepted)
	}
}

// Validate reports every fault at once, and a timing with a fault makes no Elector.
func TestTimingFaults(t *testing.T) {
	defaults := dcs.Timing{TTL: 30 * time.Second, LoopWait: 10 * time.Second, RetryTimeout: 10 * time.Second}
	noTime := defaults
	noTime.RetryTimeout = 20 * time.Second
	for _, test := range []struct {
		timing Timing
		words  []string
	}{
		{Timing{Timing: defaults, StopTimeout: 20 * time.Second, FenceTimeout: -1, PromoteTimeout: -2}, []string{"StopTimeout 20s", "FenceTimeout -1ns", "PromoteTimeout -2ns"}},
		{Timing{Timing: defaults, StopTimeout: time.Second, FenceTimeout: time.Second}, []string{"FenceTimeout 1s leaves nothing of StopTimeout 1s"}},
		{Timing{Timing: noTime}, []string{"TTL 30s leaves no time to demote", "use a shorter RetryTimeout or LoopWait, or a longer TTL"}},
	} {
		inWorld(t, func(t *testing.T, w *world) {
			store := w.open("a").store
			_, err := New(Config{Store: store, Scope: scope, Name: "b", Service: &fake{w: w}, Timing: test.timing})
			for _, err := range []error{test.timing.Validate(dcs.Caps{}), err} {
				if !errors.Is(err, dcs.ErrInvalid) {
					t.Errorf("%v", err)
				}
				for _, word := range test.words {
					if err == nil || !strings.Contains(err.Error(), word) {
						t.Errorf("%q is not in %v", word, err)
					}
				}
			}
		})
	}
}
