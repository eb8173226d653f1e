package keepalive

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func TestDeriveOnLinux(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		ttl, loop time.Duration
		want      Config
		met       bool
	}{
		{30 * sec, 10 * sec, Config{15 * sec, 3 * sec, 3, 17 * sec}, true},
		{30 * sec, sec, Config{15 * sec, 3 * sec, 3, 24 * sec}, true},
		{10 * sec, 3 * sec, Config{5 * sec, sec, 3, 5625 * ms}, true},
		{300 * sec, 100 * sec, Config{150 * sec, 37 * sec, 3, 174500 * ms}, true},
		{99999 * sec, 33333 * sec, Config{150 * sec, 37 * sec, 3, 174500 * ms}, true},
		{math.MaxInt64, math.MaxInt64, Config{150 * sec, 37 * sec, 3, 174500 * ms}, true},
		{2 * sec, 500 * ms, Config{sec, sec, 3, sec}, false},
		{sec, 300 * ms, Config{sec, sec, 3, sec}, false},
		{1, 1, Config{sec, sec, 3, sec}, false},
		{0, 0, Config{sec, sec, 3, sec}, false},
		{-5 * sec, -sec, Config{sec, sec, 3, sec}, false},
		{math.MinInt64, math.MinInt64, Config{sec, sec, 3, sec}, false},
	} {
		got, rep := DeriveFor(linuxLimits, tc.ttl, tc.loop)
		if got != tc.want || rep.Met != tc.met {
			t.Errorf("ttl %s, loop wait %s: %v, met %v; want %v, met %v (%+v)", tc.ttl, tc.loop, got, rep.Met, tc.want,
				tc.met, rep)
		}
	}
}

// Every budget of three seconds and more is met on Linux, lateness of its timers included, however often is written.
func TestDeriveMeetsTheBudgetOnLinux(t *testing.T) {
	t.Parallel()
	for ttl := 3 * sec; ttl <= 400*sec; ttl += 137 * ms {
		for _, loop := range []time.Duration{0, ms, ttl / 10, ttl / 4, ttl / 3, ttl} {
			c, rep := DeriveFor(linuxLimits, ttl, loop)
			if !rep.Met || rep.Achievable > min(ttl, MaxBudget) {
				t.Fatalf("ttl %s, loop wait %s: %v is only noticed after %s", ttl, loop, c, rep.Achievable)
			}
		}
	}
}

// A larger budget never makes silence noticed sooner than necessary by a step back: idle and user timeout only grow.
func TestDeriveGrowsWithTheTTL(t *testing.T) {
	t.Parallel()
	for _, l := range Systems() {
		var last Config
		for ttl := time.Duration(0); ttl <= 301*sec; ttl += 333 * ms {
			c, _ := DeriveFor(l, ttl, ttl/3)
			if c.Idle < last.Idle || c.UserTimeout < last.UserTimeout {
				t.Fatalf("%s: at ttl %s %v follows %v", l.OS, ttl, c, last)
			}
			last = c
		}
	}
}

// checkDerive holds for every system and every input.
func checkDerive(t *testing.T, l Limits, ttl, loop time.Duration) {
	t.Helper()
	c, rep := DeriveFor(l, ttl, loop)
	if !accepts(l, c) {
		t.Fatalf("%s: ttl %d, loop wait %d: %v is outside of the limits", l.OS, ttl, loop, c)
	}
	if rep.Budget < 0 || rep.Budget > MaxBudget || (ttl > 0 && rep.Budget > ttl) {
		t.Fatalf("%s: ttl %d: budget %s", l.OS, ttl, rep.Budget)
	}
	if rep.MaxGap < 0 || rep.MaxGap > rep.Budget/3 || (loop > 0 && rep.MaxGap > loop) {
		t.Fatalf("%s: ttl %d, loop wait %d: gap %s of budget %s", l.OS, ttl, loop, rep.MaxGap, rep.Budget)
	}
	if rep.Achievable != max(rep.Idle, rep.Unacked) || rep.Achievable <= 0 ||
		rep.Met != (rep.Achievable <= rep.Budget) || rep.Met == (len(rep.Adjustments) > 0 && unmet(rep)) {
		t.Fatalf("%s: ttl %d, loop wait %d: inconsistent report %+v", l.OS, ttl, loop, rep)
	}
	if l.perSocket() && rep.Idle < c.Idle+c.Interval {
		t.Fatalf("%s: %v cannot be noticed within %s", l.OS, c, rep.Idle)
	}
	if c.UserTimeout > 0 && rep.Unacked < rep.MaxGap+c.UserTimeout {
		t.Fatalf("%s: %v with gap %s cannot be noticed within %s", l.OS, c, rep.MaxGap, rep.Unacked)
	}
}

// unmet says whether the report admits in words that the budget is not met.
func unmet(rep Report) bool {
	last := rep.Adjustments[len(rep.Adjustments)-1]
	return strings.Contains(last, "cannot be met") || strings.Contains(last, "cannot bound")
}

func TestDeriveHoldsOnEverySystem(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	for _, l := range append(Systems(), unknownLimits) {
		for range 1_500 {
			checkDerive(t, l, anyDuration(r), anyDuration(r))
		}
	}
}

func FuzzDerive(f *testing.F) {
	for i := range Systems() {
		f.Add(i, int64(30*sec), int64(10*sec))
		f.Add(i, int64(math.MaxInt64), int64(math.MinInt64))
		f.Add(i, int64(0), int64(0))
		f.Add(i, int64(-1), int64(math.MaxInt64))
		f.Add(i, int64(99999*sec), int64(33333*sec))
	}
	f.Fuzz(func(t *testing.T, system int, ttl, loop int64) {
		rows := Systems()
		l := rows[int(uint(system)%uint(len(rows)))]
		checkDerive(t, l, time.Duration(ttl), time.Duration(loop))
	})
}

func FuzzClamp(f *testing.F) {
	f.Add(0, int64(20*sec), int64(33326*sec), 3, int64(99999*sec))
	f.Add(8, int64(math.MaxInt64), int64(math.MaxInt64), math.MaxInt, int64(math.MinInt64))
	f.Fuzz(func(t *testing.T, system int, idle, interval int64, count int, userTimeout int64) {
		rows := Systems()
		l := rows[int(uint(system)%uint(len(rows)))]
		in := Config{time.Duration(idle), time.Duration(interval), count, time.Duration(userTimeout)}
		out, _ := in.ClampFor(l)
		if !accepts(l, out) {
			t.Fatalf("%s: %v clamps to %v, which is outside of the limits", l.OS, in, out)
		}
		// The bounds of values that nobody clamped must not wrap either.
		for _, c := range []Config{in, out} {
			idle, unacked := c.SilenceFor(l, time.Duration(idle))
			if idle < 0 || unacked < 0 {
				t.Fatalf("%s: %v: silence %d, %d", l.OS, c, idle, unacked)
			}
		}
	})
}

// The figures that were measured on Linux 6.18 are within the bounds given for them, and these are not padded.
func TestSilenceBoundsWhatWasMeasured(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		c                Config
		gap              time.Duration // zero: nothing was written
		nominal, noticed time.Duration
	}{
		{Config{20 * sec, 3 * sec, 3, 30 * sec}, 0, 32 * sec, 30800 * ms},
		{Config{20 * sec, 3 * sec, 3, 0}, 0, 29 * sec, 30800 * ms},
		{Config{20 * sec, 3 * sec, 3, 31 * sec}, 0, 32 * sec, 33800 * ms},
		{Config{4 * sec, 2 * sec, 3, sec}, 0, 6 * sec, 6100 * ms},
		{Config{4 * sec, 2 * sec, 3, 9 * sec}, 0, 10 * sec, 10200 * ms},
		{Config{20 * sec, 3 * sec, 3, 30 * sec}, 18 * sec, 48 * sec, 48900 * ms}, // far beyond a TTL of 30 s
	} {
		idle, unacked := tc.c.SilenceFor(linuxLimits, tc.gap)
		bound := idle
		if tc.gap > 0 {
			bound = unacked
		}
		if tc.noticed > bound {
			t.Errorf("%v, gap %s: %s were measured, the bound is %s", tc.c, tc.gap, tc.noticed, bound)
		}
		if bound > tc.nominal*5/4 {
			t.Errorf("%v, gap %s: the bound %s is far above %s", tc.c, tc.gap, bound, tc.nominal)
		}
	}
}

// Where the count is looked at and the least interval is too long for three probes, fewer are sent, so that an idle
// connection's silence is noticed within a small budget too.
func TestFewerProbesForASmallBudget(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		ttl   time.Duration
		count int
	}{{3 * sec, 1}, {5 * sec, 2}, {7 * sec, 3}, {30 * sec, 3}} {
		c, rep := DeriveFor(freebsdLimits, tc.ttl, tc.ttl/3)
		if c.Count != tc.count || rep.Idle > tc.ttl {
			t.Errorf("ttl %s: %v, noticed within %s; want count %d", tc.ttl, c, rep.Idle, tc.count)
		}
	}
}

func TestSumsAndProductsStopAtUnbounded(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ got, want time.Duration }{
		{addDuration(Unbounded, 1), Unbounded},
		{addDuration(Unbounded-1, 1), Unbounded},
		{addDuration(Unbounded-2, 1), Unbounded - 1},
		{addDuration(Unbounded, Unbounded), Unbounded},
		{mulDuration(Unbounded, 2), Unbounded},
		{mulDuration(Unbounded/2, 2), Unbounded - 1},
		{mulDuration(1<<40, math.MaxInt32), Unbounded},
		{mulDuration(-1, 2), 0},
		{mulDuration(1, -2), 0},
	} {
		if tc.got != tc.want {
			t.Errorf("got %d, want %d", tc.got, tc.want)
		}
	}
	most := Config{Unbounded, Unbounded, math.MaxInt, Unbounded}
	for _, l := range Systems() {
		idle, unacked := most.SilenceFor(l, Unbounded)
		if idle != Unbounded || unacked != Unbounded {
			t.Errorf("%s: the largest values bound silence to %d, %d", l.OS, idle, unacked)
		}
	}
}

func TestReportSaysWhatCannotBeBounded(t *testing.T) {
	t.Parallel()
	for os, want := range map[string]string{
		"OpenBSD":           "OpenBSD cannot bound the silence per socket: only the application's own deadlines do",
		"FreeBSD before 14": "FreeBSD before 14 cannot bound per socket how long data stays unacknowledged",
		"NetBSD":            "NetBSD cannot bound per socket how long data stays unacknowledged",
		"DragonFly":         "DragonFly cannot bound per socket how long data stays unacknowledged",
		"AIX":               "AIX cannot bound per socket how long data stays unacknowledged",
	} {
		_, rep := DeriveFor(rowOf(t, os), 30*sec, 10*sec)
		if rep.Met || rep.Achievable != Unbounded || !strings.Contains(strings.Join(rep.Adjustments, "\n"), want) {
			t.Errorf("%s: %+v, want the words %q", os, rep, want)
		}
	}
	for _, os := range []string{"Linux", "Darwin", "FreeBSD", "Windows", "Windows before 1709", "illumos"} {
		if _, rep := DeriveFor(rowOf(t, os), 30*sec, 10*sec); !rep.Met || len(rep.Adjustments) > 0 {
			t.Errorf("%s: 30 s are not met: %+v", os, rep)
		}
	}
	if _, rep := DeriveFor(linuxLimits, sec, 300*ms); rep.Met || rep.Achievable > 3*sec || !unmet(rep) {
		t.Errorf("a ttl of 1 s on Linux: %+v", rep)
	}
	// illumos cannot probe before 10 s: the interval shrinks to the rest of the budget.
	c, rep := DeriveFor(illumosLimits, 18*sec, 6*sec)
	if want := (Config{10 * sec, sec, 3, 10 * sec}); c != want || !rep.Met {
		t.Errorf("illumos, ttl 18 s: %v, want %v (%+v)", c, want, rep)
	}
}
