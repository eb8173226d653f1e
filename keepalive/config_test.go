package keepalive

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

const (
	sec = time.Second
	ms  = time.Millisecond
)

func rowOf(t testing.TB, os string) Limits {
	t.Helper()
	for _, l := range Systems() {
		if l.OS == os {
			return l
		}
	}
	t.Fatalf("no row for %s", os)
	return Limits{}
}

func TestSystemsAreTheTenAndTheirGenerations(t *testing.T) {
	t.Parallel()
	want := []string{
		"Linux", "Darwin", "FreeBSD", "FreeBSD before 14", "NetBSD", "OpenBSD", "DragonFly",
		"Windows", "Windows before 1709", "illumos", "Solaris", "Solaris before 11.4", "AIX",
	}
	var got []string
	for _, l := range Systems() {
		got = append(got, l.OS)
	}
	if strings.Join(got, ",") != strings.Join(want, ",") {
		t.Fatalf("Systems() = %v, want %v", got, want)
	}
}

func TestClampEdges(t *testing.T) {
	t.Parallel()
	inner := Config{Idle: 20 * sec, Interval: 20 * sec, Count: 3}
	for _, tc := range []struct {
		os       string
		in, want Config
		message  string // one of the adjustments; empty: none at all
	}{
		{"Linux", Config{32767 * sec, 32767 * sec, 127, 2147483647 * ms}, Config{32767 * sec, 32767 * sec, 127, 2147483647 * ms}, ""},
		{"Linux", Config{sec, sec, 1, ms}, Config{sec, sec, 1, ms}, ""},
		{
			"Linux",
			Config{20 * sec, 33326 * sec, 3, 0},
			Config{20 * sec, 32767 * sec, 3, 0},
			"interval 33326s is above Linux's 32767s: using 32767s",
		},
		{"Linux", Config{32768 * sec, sec, 3, 0}, Config{32767 * sec, sec, 3, 0}, "idle 32768s is above Linux's 32767s: using 32767s"},
		{"Linux", Config{0, sec, 3, 0}, Config{sec, sec, 3, 0}, "idle 0s is below Linux's 1s: using 1s"},
		{"Linux", Config{1500 * ms, sec, 3, 0}, Config{sec, sec, 3, 0}, "idle 1500ms is no multiple of Linux's 1s: using 1s"},
		{"Linux", Config{sec, sec, 128, 0}, Config{sec, sec, 127, 0}, "count 128 is above Linux's 127: using 127"},
		{"Linux", Config{sec, sec, math.MinInt32, 0}, Config{sec, sec, 1, 0}, "count -2147483648 is below Linux's 1: using 1"},
		{
			"Linux",
			Config{sec, sec, 3, 2147483648 * ms},
			Config{sec, sec, 3, 2147483647 * ms},
			"user timeout 2147483648ms is above Linux's 2147483647ms: using 2147483647ms",
		},
		{"Linux", Config{sec, sec, 3, 1}, Config{sec, sec, 3, ms}, "user timeout 1ns is below Linux's 1ms: using 1ms"},
		{"Linux", Config{sec, sec, 3, -5 * sec}, Config{sec, sec, 3, 0}, "user timeout -5s is negative: it is left off"},
		{"Darwin", Config{4294968 * sec, sec, 3, 0}, Config{4294967 * sec, sec, 3, 0}, "idle 4294968s is above Darwin's 4294967s: using 4294967s"},
		{"Darwin", Config{sec, sec, 3, 2147484 * sec}, Config{sec, sec, 3, 2147483 * sec}, "user timeout 2147484s is above Darwin's 2147483s: using 2147483s"},
		{"Darwin", Config{sec, 1000 * sec, math.MaxInt32, 0}, Config{sec, 1000 * sec, 2147, 0}, "count 2147483647 is above Darwin's 2147 at interval 1000s: using 2147"},
		{"Darwin", Config{sec, 4294967 * sec, 2, 0}, Config{sec, 4294967 * sec, 1, 0}, "count 2 is above Darwin's 1 at interval 4294967s: using 1"},
		{"FreeBSD", Config{sec, 4294968 * sec, 1, 0}, Config{sec, 4294967 * sec, 1, 0}, "interval 4294968s is above FreeBSD's 4294967s: using 4294967s"},
		{"FreeBSD", Config{sec, sec, 3, 2500 * ms}, Config{sec, sec, 3, 2 * sec}, "user timeout 2500ms is no multiple of FreeBSD's 1s: using 2s"},
		{"FreeBSD before 14", Config{sec, sec, 3, 5 * sec}, Config{sec, sec, 3, 0}, "user timeout 5s cannot be had, FreeBSD before 14 has none per socket: it is left off"},
		{"NetBSD", Config{4194304 * sec, sec, 3, 0}, Config{4194303 * sec, sec, 3, 0}, "idle 4194304s is above NetBSD's 4194303s: using 4194303s"},
		{"OpenBSD", inner, Config{}, "OpenBSD has no keepalive times per socket: its own are used"},
		{"OpenBSD", Config{}, Config{}, ""},
		{"DragonFly", Config{2147484 * sec, sec, 3, 0}, Config{2147483 * sec, sec, 3, 0}, "idle 2147484s is above DragonFly's 2147483s: using 2147483s"},
		{"Windows", Config{sec, sec, 256, 0}, Config{sec, sec, 255, 0}, "count 256 is above Windows's 255: using 255"},
		{
			"Windows before 1709",
			Config{1500 * ms, 4 * sec, 3, 0},
			Config{1500 * ms, 1200 * ms, 10, 0},
			"count 3 cannot be had, Windows before 1709 always counts to 10: using interval 1200ms",
		},
		{"Windows before 1709", Config{sec, sec, 10, 0}, Config{sec, sec, 10, 0}, ""},
		{
			"Windows before 1709",
			Config{math.MaxInt64, math.MaxInt64, math.MaxInt, 0},
			Config{4294967295 * ms, 4294967295 * ms, 10, 0},
			"is above Windows before 1709's 4294967295ms: using 4294967295ms",
		},
		{"illumos", Config{9 * sec, sec, 3, 0}, Config{10 * sec, sec, 3, 0}, "idle 9s is below illumos's 10s: using 10s"},
		{"illumos", Config{864001 * sec, 61 * sec, 3, 0}, Config{864000 * sec, 60 * sec, 3, 0}, "interval 61s is above illumos's 60s: using 60s"},
		{"illumos", Config{10 * sec, 60 * sec, 40000, 0}, Config{10 * sec, 60 * sec, 35791, 0}, "count 40000 is above illumos's 35791 at interval 60s: using 35791"},
		{"Solaris", Config{sec, sec, 3, 0}, Config{10 * sec, 10 * sec, 3, 0}, "interval 1s is below Solaris's 10s: using 10s"},
		{
			"Solaris before 11.4",
			Config{10 * sec, 5 * sec, 3, 0},
			Config{10 * sec, 15 * sec, 1, 0},
			"count 3 cannot be had, Solaris before 11.4 always counts to 1: using interval 15s",
		},
		{"AIX", Config{40000 * sec, sec, 3, 0}, Config{32767 * sec, sec, 3, 0}, "idle 40000s is above AIX's 32767s: using 32767s"},
		{"AIX", Config{sec, sec, 3, sec}, Config{sec, sec, 3, 0}, "user timeout 1s cannot be had, AIX has none per socket: it is left off"},
	} {
		got, made := tc.in.ClampFor(rowOf(t, tc.os))
		if got != tc.want {
			t.Errorf("%s: %v clamps to %v, want %v", tc.os, tc.in, got, tc.want)
		}
		var all []string
		for _, a := range made {
			all = append(all, a.String())
		}
		joined := strings.Join(all, "\n")
		if (tc.message == "") != (joined == "") || !strings.Contains(joined, tc.message) {
			t.Errorf("%s: %v: adjustments %q, want %q among them", tc.os, tc.in, all, tc.message)
		}
	}
}

// anyDuration covers the whole range of the type: small values, all magnitudes, both signs and the extremes.
func anyDuration(r *rand.Rand) time.Duration {
	switch r.IntN(8) {
	case 0:
		extremes := []int64{0, 1, -1, math.MaxInt64, math.MinInt64, math.MaxInt32, math.MaxUint32}
		return time.Duration(extremes[r.IntN(len(extremes))])
	case 1:
		return time.Duration(r.Int64N(70000)) * sec
	case 2:
		return time.Duration(r.Int64N(10_000_000)) * sec
	case 3:
		return -time.Duration(r.Int64() >> r.IntN(63))
	}
	return time.Duration(r.Int64() >> r.IntN(63))
}

func anyConfig(r *rand.Rand) Config {
	return Config{
		Idle: anyDuration(r), Interval: anyDuration(r), Count: int(anyDuration(r)), UserTimeout: anyDuration(r),
	}
}

func inRange(d time.Duration, r Range) bool { return d >= r.Min && d <= r.Max && d%r.Unit == 0 }

// accepts says whether the system takes the values as they are, by its row and independently of Clamp.
func accepts(l Limits, c Config) bool {
	if c.UserTimeout != 0 && (l.UserTimeout.missing() || !inRange(c.UserTimeout, l.UserTimeout)) {
		return false
	}
	if !l.perSocket() {
		return c.Idle == 0 && c.Interval == 0 && c.Count == 0
	}
	if !inRange(c.Idle, l.Idle) || !inRange(c.Interval, l.Interval) || c.Count < l.MinCount || c.Count > l.MaxCount {
		return false
	}
	// The product may pass MaxProbing only where a single probe does.
	return l.MaxProbing == 0 || c.Count == 1 || c.Interval <= l.MaxProbing/time.Duration(c.Count)
}

func TestClampHoldsOnEverySystem(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for _, l := range Systems() {
		for range 3_000 {
			in := anyConfig(r)
			out, made := in.ClampFor(l)
			if !accepts(l, out) {
				t.Fatalf("%s: %v clamps to %v, which is outside of the limits", l.OS, in, out)
			}
			if (in != out) != (len(made) > 0) {
				t.Fatalf("%s: %v clamps to %v with the adjustments %v", l.OS, in, out, made)
			}
			if again, made := out.ClampFor(l); again != out || len(made) > 0 {
				t.Fatalf("%s: %v is no fixed point: %v, %v", l.OS, out, again, made)
			}
		}
	}
}

func TestClampIsForThisSystem(t *testing.T) {
	t.Parallel()
	in := Config{Idle: math.MaxInt64, Interval: math.MinInt64, Count: -1, UserTimeout: math.MaxInt64}
	got, made := in.Clamp()
	want, wantMade := in.ClampFor(System())
	if got != want || len(made) != len(wantMade) {
		t.Fatalf("Clamp gives %v, %v; ClampFor(System()) gives %v, %v", got, made, want, wantMade)
	}
}
