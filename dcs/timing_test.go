package dcs

import (
	"errors"
	"math"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/internal/bubble"
)

const sec = time.Second

func TestTimingDefaults(t *testing.T) {
	for _, c := range []struct{ in, want Timing }{
		{Timing{}, Timing{30 * sec, 10 * sec, 10 * sec}},
		{Timing{TTL: 30 * sec}, Timing{30 * sec, 10 * sec, 10 * sec}},
		{Timing{TTL: 3 * sec}, Timing{3 * sec, sec, sec}},
		{Timing{TTL: time.Hour}, Timing{time.Hour, 10 * sec, 10 * sec}},
		{Timing{TTL: 30 * sec, LoopWait: 2 * sec}, Timing{30 * sec, 2 * sec, 10 * sec}},
		{Timing{TTL: 9 * sec, LoopWait: 5 * sec}, Timing{9 * sec, 5 * sec, 2 * sec}},
		{Timing{TTL: 9 * sec, RetryTimeout: sec}, Timing{9 * sec, 3 * sec, sec}},
		{Timing{TTL: math.MaxInt64}, Timing{math.MaxInt64, 10 * sec, 10 * sec}},
		{Timing{LoopWait: sec}, Timing{LoopWait: sec}},
		{Timing{TTL: -1}, Timing{TTL: -1}},
	} {
		if got := c.in.WithDefaults(); got != c.want {
			t.Errorf("%v becomes %v, want %v", c.in, got, c.want)
		}
	}
	if err := (Timing{}).Validate(Caps{}); err != nil {
		t.Errorf("the default: %v", err)
	}
}

func TestTimingValidate(t *testing.T) {
	for _, c := range []struct {
		name string
		in   Timing
		caps Caps
		says []string // empty: valid
	}{
		{"exactly the rule", Timing{30 * sec, 10 * sec, 10 * sec}, Caps{}, nil},
		{"a nanosecond short", Timing{30*sec - 1, 10 * sec, 10 * sec}, Caps{}, []string{"TTL 29.999999999s is less than LoopWait 10s + 2 x RetryTimeout 10s = 30s", "TTL 30s, LoopWait 10s, RetryTimeout 10s works"}},
		{"short is a feature", Timing{sec, 300 * time.Millisecond, 300 * time.Millisecond}, Caps{}, nil},
		{"shorter", Timing{300 * time.Millisecond, 100 * time.Millisecond, 100 * time.Millisecond}, Caps{}, nil},
		{"shorter than the margin allows", Timing{TTL: 200 * time.Millisecond}, Caps{}, []string{"leaves no time for two renewals, 66.666666ms apart, before the deadline, which is 100ms before the TTL's end", "TTL 200ms, LoopWait 50ms, RetryTimeout 75ms works"}},
		{"shorter than the margin", Timing{TTL: 90 * time.Millisecond}, Caps{}, []string{"TTL 90ms leaves no time", "TTL 30s, LoopWait 10s, RetryTimeout 10s works"}},
		{"moved up by the store", Timing{2 * sec, 2 * sec, 2 * sec}, Caps{MinTTL: 10 * sec}, nil},
		{"moved down by the store", Timing{30 * sec, 10 * sec, 10 * sec}, Caps{MaxTTL: 20 * sec}, []string{"TTL 20s is less than LoopWait 10s + 2 x RetryTimeout 10s = 30s (TTL 30s, which this store moves to 20s)", "TTL 20s, LoopWait 6s, RetryTimeout 7s works"}},
		{"no TTL", Timing{LoopWait: sec, RetryTimeout: 2 * sec}, Caps{}, []string{"TTL is 0 while other settings are not, it must be more than 0", "TTL 30s, LoopWait 1s, RetryTimeout 2s works"}},
		{"all negative", Timing{-sec, -2 * sec, -3 * sec}, Caps{}, []string{"TTL -1s is negative", "LoopWait -2s is negative", "RetryTimeout -3s is negative", "TTL 30s, LoopWait 10s, RetryTimeout 10s works"}},
		{"nothing left", Timing{TTL: 2 * sec, LoopWait: 2 * sec}, Caps{}, []string{"RetryTimeout is 0 and TTL 2s leaves nothing for it", "LoopWait 600ms, RetryTimeout 700ms works"}},
		{"one nanosecond", Timing{TTL: 1}, Caps{}, []string{"LoopWait is 0 and TTL 1ns leaves nothing"}},
		{"saturating", Timing{math.MaxInt64, math.MaxInt64, math.MaxInt64}, Caps{}, []string{"is less than LoopWait", "works"}},
		{"saturating, TTL", Timing{TTL: math.MaxInt64}, Caps{}, nil},
		{"a store too quick", Timing{}, Caps{MaxTTL: 100 * time.Millisecond}, []string{"no setting works with a store that grants at most 100ms"}},
		{"two faults", Timing{sec, 450 * time.Millisecond, 300 * time.Millisecond}, Caps{MaxTTL: 250 * time.Millisecond}, []string{"is less than LoopWait", "leaves no time for two renewals"}},
	} {
		err := c.in.Validate(c.caps)
		if (err == nil) != (c.says == nil) || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		for _, says := range c.says {
			if !strings.Contains(err.Error(), says) {
				t.Errorf("%s: %v\ndoes not say %q", c.name, err, says)
			}
		}
		if strings.Contains(errText(err), "\n") {
			t.Errorf("%s: several lines: %v", c.name, err)
		}
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

var suggestion = regexp.MustCompile(`TTL (\S+), LoopWait (\S+), RetryTimeout (\S+) works`)

// suggested parses the settings that an error's text suggests.
func suggested(t *testing.T, err error) []Timing {
	t.Helper()
	var out []Timing
	for _, m := range suggestion.FindAllStringSubmatch(err.Error(), -1) {
		var s Timing
		for i, d := range []*time.Duration{&s.TTL, &s.LoopWait, &s.RetryTimeout} {
			var parseErr error
			if *d, parseErr = time.ParseDuration(m[i+1]); parseErr != nil {
				t.Fatal(parseErr)
			}
		}
		out = append(out, s)
	}
	return out
}

// anyDuration draws from the whole range, and draws its ends and its small values more
// often than chance would.
func anyDuration() time.Duration {
	switch rand.N(8) {
	case 0:
		return 0
	case 1:
		return time.Duration(rand.Uint64())
	case 2:
		return math.MaxInt64 - rand.N(3*sec)
	case 3:
		return rand.N(200 * time.Millisecond)
	default:
		return rand.N(time.Minute)
	}
}

// For every fault, the setting that the message suggests is accepted under the same
// Caps, and every accepted setting keeps the rule.
func TestTimingSuggestionsWork(t *testing.T) {
	var faulty, sound int
	for range 30_000 {
		in := Timing{anyDuration(), anyDuration(), anyDuration()}
		var caps Caps
		if rand.N(2) == 0 {
			caps.MinTTL = rand.N(20 * sec)
		}
		if rand.N(2) == 0 {
			caps.MaxTTL = caps.MinTTL + 101*time.Millisecond + rand.N(time.Minute)
		}
		err := in.Validate(caps)
		if err == nil {
			sound++
			checkRule(t, in.WithDefaults(), caps)
			continue
		}
		faulty++
		found := suggested(t, err)
		if len(found) == 0 {
			t.Fatalf("%v under %+v: no suggestion in %v", in, caps, err)
		}
		for _, s := range found {
			if err := s.Validate(caps); err != nil || len(s.Warnings(caps)) > 0 && s.TTL <= longTTL {
				t.Fatalf("%v under %+v: the suggestion %v fails: %v %v", in, caps, s, err, s.Warnings(caps))
			}
		}
	}
	if faulty < 500 || sound < 500 {
		t.Errorf("%d faulty and %d sound settings prove little", faulty, sound)
	}
}

func checkRule(t *testing.T, s Timing, caps Caps) {
	t.Helper()
	ttl := s.TTL
	if caps.MaxTTL > 0 && ttl > caps.MaxTTL {
		ttl = caps.MaxTTL
	}
	if ttl < caps.MinTTL {
		ttl = caps.MinTTL
	}
	sum := float64(s.LoopWait) + 2*float64(s.RetryTimeout)
	if s.TTL <= 0 || s.LoopWait <= 0 || s.RetryTimeout <= 0 || sum > float64(ttl)*(1+1e-9) {
		t.Fatalf("%v was accepted for a TTL of %v", s, ttl)
	}
	if every := s.RenewEvery(ttl); every <= 0 || 2*every > ttl-Margin(ttl) {
		t.Fatalf("%v was accepted for a TTL of %v, with renewals every %v", s, ttl, every)
	}
	if err := s.CheckGrant(ttl); err != nil {
		t.Fatalf("%v was accepted, the grant of %v was not: %v", s, ttl, err)
	}
}

func TestCheckGrant(t *testing.T) {
	timing := Timing{10 * sec, 4 * sec, 3 * sec}
	for _, ttl := range []time.Duration{10 * sec, 11 * sec, math.MaxInt64} {
		if err := timing.CheckGrant(ttl); err != nil {
			t.Errorf("%v: %v", ttl, err)
		}
	}
	for ttl, says := range map[time.Duration]string{
		10*sec - 1:            "the store granted a TTL of 9.999999999s: TTL 9.999999999s is less than LoopWait 4s + 2 x RetryTimeout 3s = 10s",
		2 * sec:               "LoopWait 600ms, RetryTimeout 700ms works",
		50 * time.Millisecond: "no setting works with so short a lease",
		0:                     "no setting works with so short a lease",
		math.MinInt64:         "no setting works with so short a lease",
	} {
		err := timing.CheckGrant(ttl)
		if KindOf(err) != ErrInvalid || !strings.Contains(errText(err), says) {
			t.Errorf("%v: %v, want %q", ttl, err, says)
			continue
		}
		for _, s := range suggested(t, err) {
			if err := s.CheckGrant(ttl); err != nil {
				t.Errorf("the suggestion %v for %v: %v", s, ttl, err)
			}
		}
	}
}

func TestTimingWarnings(t *testing.T) {
	for _, c := range []struct {
		in   Timing
		caps Caps
		says []string
	}{
		{Timing{}, Caps{}, nil},
		{Timing{}, Caps{MinTTL: 30 * sec, MaxTTL: 30 * sec}, nil},
		{Timing{TTL: 300 * sec}, Caps{}, nil},
		{Timing{TTL: 300*sec + 1}, Caps{}, []string{"TTL 5m0.000000001s is above 5m0s"}},
		{Timing{TTL: 2 * sec}, Caps{MinTTL: 10 * sec}, []string{"TTL 2s is below this store's minimum: it grants 10s"}},
		{Timing{TTL: time.Hour}, Caps{MaxTTL: time.Minute}, []string{"TTL 1h0m0s is above this store's maximum: it grants 1m0s"}},
		{Timing{TTL: time.Hour}, Caps{MaxTTL: 1000 * sec}, []string{"it grants 16m40s", "is above 5m0s"}},
	} {
		got := c.in.Warnings(c.caps)
		if len(got) != len(c.says) {
			t.Errorf("%v under %+v: %q", c.in, c.caps, got)
			continue
		}
		for i, says := range c.says {
			if !strings.Contains(got[i], says) {
				t.Errorf("%v under %+v: %q, want %q", c.in, c.caps, got[i], says)
			}
		}
	}
}

// P3.
func TestDeadline(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		from := Now()
		for ttl, want := range map[time.Duration]time.Duration{
			30 * sec:               29400 * time.Millisecond,
			5 * sec:                4900 * time.Millisecond,
			sec:                    900 * time.Millisecond,
			100 * time.Millisecond: 0,
			0:                      -100 * time.Millisecond,
			math.MinInt64:          -100 * time.Millisecond,
		} {
			if got := Deadline(from, ttl).Sub(from); got != want {
				t.Errorf("the deadline of a lease of %v is From + %v, want %v", ttl, got, want)
			}
		}
		if got := Deadline(from, math.MaxInt64); got.Before(from.Add(time.Hour)) {
			t.Error("the deadline of the longest lease lies in the past")
		}
	})
	if got := DefaultTiming.RenewEvery(30 * sec); got != 10*sec {
		t.Errorf("a lease of 30s is renewed every %v", got)
	}
	if got := DefaultTiming.RenewEvery(3 * sec); got != sec {
		t.Errorf("a lease of 3s is renewed every %v", got)
	}
}
